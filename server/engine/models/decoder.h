// The frame of every decoder: embedding, layers, last norm, head; and how a step is cut into
// passes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "server/engine/models/blocks.h"
#include "server/engine/models/kv_pool.h"
#include "server/engine/models/layer_stack.h"
#include "server/engine/models/model.h"
#include "server/engine/models/model_devices.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/rope.h"
#include "server/engine/models/state_pool.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/config.h"

namespace modeld {

// What a model is built from.
struct ModelParts {
  ArchitectureConfig config;
  int64_t max_context;  // tokens, as loaded
  std::shared_ptr<KvPool> kv;
  std::shared_ptr<StatePool> states;  // null for a model of attention only
  std::unique_ptr<ThreadPool> threads;
  std::shared_ptr<const ModelDevices> devices;
  bool prefix_cache = true;  // what sequences computed is left for others that begin alike
};

class Decoder final : public CausalLm {
 public:
  // The tensors of `source` are where the devices of `parts` are.
  Decoder(ModelParts parts, const TensorSource& source);

  // Throws c10::Error, before any state has changed, for a token id outside the vocabulary.
  at::Tensor Forward(const std::vector<Segment>& segments) override;
  std::unique_ptr<SequenceState> NewSequence() override;
  std::unique_ptr<SequenceState> ResumeSequence(std::span<const int64_t> token_ids,
                                                const std::string& salt) override;
  int64_t vocab_size() const override { return parts_.config.vocab_size; }
  int64_t max_context() const override { return parts_.max_context; }
  int64_t kv_tokens_total() const override;
  int64_t kv_tokens_free() const override;

 private:
  // A run of tokens of one segment, and from which of them on logits are wanted.
  struct Piece {
    PagedState* state;
    std::span<const int64_t> token_ids;
    int64_t first_logit_row;      // token_ids.size(): none
    int64_t out_row;              // of the step's logits, where its first ones go
    int64_t length;               // of the sequence when the whole segment is done
    bool keeps_snapshot = false;  // behind its last token
  };
  using Passes = std::vector<std::vector<Piece>>;
  void Check(const std::vector<Segment>& segments) const;
  // The first tokens of a sequence are computed again when it outgrows long_context_.
  Passes PassesOf(const std::vector<Segment>& segments) const;
  // The first `count` tokens of a piece, which keeps the others.
  static Piece TakeFront(Piece& piece, int64_t count);
  // Adds a piece, cut where passes are full.
  static void Add(Piece piece, Passes& passes);
  // The last layer's output of the rows whose logits are wanted, on the device of the last norm;
  // advances the states.
  at::Tensor RunPass(const std::vector<Piece>& pieces);
  at::Tensor Embed(const std::vector<int64_t>& ids, const std::vector<int64_t>& positions) const;
  // What each layer gets of a token beside `hidden`, the embeddings; undefined where they get none.
  at::Tensor LayerInputs(const std::vector<int64_t>& ids, const at::Tensor& hidden) const;
  // 1 + beta * log(1 + floor(position / context)), undefined where the model has no such factor.
  at::Tensor QueryScale(const std::vector<int64_t>& positions) const;
  // Those of each row of `hidden` go to its row of `out`.
  void WriteLogits(const at::Tensor& hidden, std::span<const int64_t> rows, at::Tensor& out) const;

  const ModelParts parts_;
  // Frequencies of positions change, for all tokens of a sequence, when it gets longer than this;
  // 0: they do not.
  int64_t long_context_ = 0;
  const at::Tensor embedding_;     // [vocab, hidden]
  at::Tensor position_embedding_;  // [max context, hidden], may be undefined
  at::Tensor layer_embedding_;     // [layer_input_vocab, layers * layer_input_size]
  Linear layer_inputs_;
  Norm layer_inputs_norm_;
  std::vector<Rope> ropes_;
  const LayerStack layers_;
  Norm final_norm_;
  at::Tensor head_;       // [vocab, hidden]; the embedding again when they are tied
  at::Tensor head_bias_;  // [vocab], may be undefined
};

}  // namespace modeld
