// The frame of every decoder: embedding, layers, last norm, head; and how a step is cut into
// passes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "server/engine/models/blocks.h"
#include "server/engine/models/kv_pool.h"
#include "server/engine/models/model.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/rope.h"
#include "server/engine/weights/config.h"

namespace modeld {

// Tokens that go through the layers at once. A longer step is cut, so that its workspace stays what
// the budget was computed with.
inline constexpr int64_t kPassTokens = 512;
// Rows that go through the head at once.
inline constexpr int64_t kHeadRows = 64;

class DecoderLayer {
 public:
  virtual ~DecoderLayer() = default;
  virtual at::Tensor Forward(const at::Tensor& hidden,
                             const Pass& pass) const = 0;  // [rows, hidden]
};

struct DecoderParts {
  ArchitectureConfig config;
  int64_t max_context;
  at::Tensor embedding;  // [vocab, hidden]
  std::vector<std::unique_ptr<DecoderLayer>> layers;
  RmsNorm final_norm;
  at::Tensor head;  // [vocab, hidden]; the embedding again when they are tied
  std::shared_ptr<KvPool> kv;
  std::unique_ptr<ThreadPool> threads;
};

class Decoder final : public CausalLm {
 public:
  explicit Decoder(DecoderParts parts);

  // Throws c10::Error, before any state has changed, for a token id outside the vocabulary.
  at::Tensor Forward(const std::vector<Segment>& segments) override;
  std::unique_ptr<SequenceState> NewSequence() override;
  int64_t vocab_size() const override { return parts_.config.vocab_size; }
  int64_t max_context() const override { return parts_.max_context; }
  int64_t kv_tokens_total() const override;
  int64_t kv_tokens_free() const override;

 private:
  // A run of tokens of one segment, and from which of them on logits are wanted.
  struct Piece {
    PagedState* state;
    std::span<const int64_t> token_ids;
    int64_t first_logit_row;  // token_ids.size(): none
  };
  std::vector<std::vector<Piece>> PassesOf(const std::vector<Segment>& segments) const;
  // The last layer's output of the rows whose logits are wanted; advances the states.
  at::Tensor RunPass(const std::vector<Piece>& pieces);
  void WriteLogits(const at::Tensor& hidden, at::Tensor out) const;

  const DecoderParts parts_;
  const Rope rope_;
};

}  // namespace modeld
