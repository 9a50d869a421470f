#include "server/engine/models/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "server/base/status.h"

namespace modeld {

Decoder::Decoder(ModelParts parts, const TensorSource& source)
    : parts_(std::move(parts)),
      embedding_(source.Get("model.embed_tokens.weight")),
      layers_(source, parts_.config, parts_.devices) {
  const ArchitectureConfig& config = parts_.config;
  if (config.position_embedding) {
    position_embedding_ = source.Get("model.embed_positions.weight");
  }
  if (config.layer_input_size > 0) {
    layer_embedding_ = source.Get("model.embed_layers.weight");
    layer_inputs_ = Linear(source, "model.layer_inputs", false);
    layer_inputs_norm_ = Norm(source, "model.layer_inputs_norm", config.norm, config.norm_eps);
  }
  for (const RopeConfig& rope : config.ropes) {
    ropes_.emplace_back(rope, embedding_.device());
    if (rope.kind == RopeConfig::Kind::kLongRope) long_context_ = rope.original_context;
  }
  final_norm_ = Norm(source, "model.norm", config.norm, config.norm_eps);
  const DeviceMap& map = parts_.devices->map();
  head_ = config.tie_word_embeddings ? parts_.devices->Moved(embedding_, map.embedding, map.head)
                                     : source.Get("lm_head.weight");
  if (config.head_bias) head_bias_ = source.Get("lm_head.bias");
}

std::unique_ptr<SequenceState> Decoder::NewSequence() {
  return std::make_unique<PagedState>(SequenceMemory{parts_.kv, parts_.states, long_context_});
}

std::unique_ptr<SequenceState> Decoder::ResumeSequence(std::span<const int64_t> token_ids,
                                                       const std::string& salt) {
  auto state =
      std::make_unique<PagedState>(SequenceMemory{parts_.kv, parts_.states, long_context_});
  if (parts_.prefix_cache) state->Resume(token_ids, salt);
  return state;
}

int64_t Decoder::kv_tokens_total() const { return parts_.kv->options().blocks * kKvBlockTokens; }

int64_t Decoder::kv_tokens_free() const { return parts_.kv->blocks_free() * kKvBlockTokens; }

void Decoder::Check(const std::vector<Segment>& segments) const {
  for (const Segment& segment : segments) {
    const auto* state = static_cast<PagedState*>(segment.state);  // made by NewSequence()
    const auto count = static_cast<int64_t>(segment.token_ids.size());
    MODELD_CHECK(count > 0, "a segment without tokens");
    MODELD_CHECK(state->length() + count <= state->capacity(), "a step without reserved room");
    for (const int64_t id : segment.token_ids) {
      TORCH_CHECK(id >= 0 && id < vocab_size(), "token ", id, " of ", vocab_size());
    }
  }
}

Decoder::Piece Decoder::TakeFront(Piece& piece, int64_t count) {
  Piece front = piece;
  front.token_ids = piece.token_ids.first(count);
  front.first_logit_row = std::min(piece.first_logit_row, count);
  front.keeps_snapshot = false;
  piece.token_ids = piece.token_ids.subspan(count);
  piece.first_logit_row -= front.first_logit_row;
  piece.out_row += count - front.first_logit_row;
  return front;
}

void Decoder::Add(Piece piece, Passes& passes) {
  if (passes.empty()) passes.emplace_back();
  int64_t room = kPassTokens;
  for (const Piece& other : passes.back()) room -= std::ssize(other.token_ids);
  while (std::ssize(piece.token_ids) > room) {
    if (room > 0) passes.back().push_back(TakeFront(piece, room));
    passes.emplace_back();
    room = kPassTokens;
  }
  passes.back().push_back(piece);
}

// What follows a snapshot goes through the layers behind all that does not.
Decoder::Passes Decoder::PassesOf(const std::vector<Segment>& segments) const {
  Passes passes;
  Passes behind_snapshots;
  int64_t rows = 0;
  for (const Segment& segment : segments) {
    auto* state = static_cast<PagedState*>(segment.state);
    const auto count = std::ssize(segment.token_ids);
    const int64_t past = state->length();
    const int64_t length = past + count;
    const int64_t snapshot_at = state->SnapshotAt(count, segment.wants_logits);
    const std::span<const int64_t> all = state->Remember(segment.token_ids);
    const bool outgrows =
        long_context_ > 0 && past > 0 && past <= long_context_ && length > long_context_;
    if (outgrows) state->Rewind();
    const std::span<const int64_t> ids = all.subspan(state->length());
    const int64_t wanted =
        segment.wants_all_logits ? count : static_cast<int64_t>(segment.wants_logits);
    Piece piece = {.state = state,
                   .token_ids = ids,
                   .first_logit_row = std::ssize(ids) - wanted,
                   .out_row = rows,
                   .length = length};
    rows += wanted;
    if (snapshot_at > 0) {
      Piece front = TakeFront(piece, snapshot_at - state->length());
      front.keeps_snapshot = true;
      Add(front, passes);
    }
    if (!piece.token_ids.empty()) Add(piece, snapshot_at > 0 ? behind_snapshots : passes);
  }
  passes.insert(passes.end(), behind_snapshots.begin(), behind_snapshots.end());
  return passes;
}

at::Tensor Decoder::Embed(const std::vector<int64_t>& ids,
                          const std::vector<int64_t>& positions) const {
  const at::Device device = embedding_.device();
  at::Tensor hidden = at::embedding(embedding_, at::tensor(ids, at::kLong).to(device));
  const double multiplier = parts_.config.embedding_multiplier;
  // The factor is rounded first, as the reference does.
  if (multiplier != 1) hidden = hidden * at::scalar_tensor(multiplier, hidden.options());
  if (position_embedding_.defined()) {
    hidden =
        hidden + at::embedding(position_embedding_, at::tensor(positions, at::kLong).to(device));
  }
  return hidden;  // [rows, hidden]
}

at::Tensor Decoder::LayerInputs(const std::vector<int64_t>& ids, const at::Tensor& hidden) const {
  const int64_t size = parts_.config.layer_input_size;
  if (size == 0) return {};
  const auto by_layer = [&](const at::Tensor& x) { return x.unflatten(1, {-1, size}); };
  const at::Tensor factor =
      at::scalar_tensor(std::sqrt(static_cast<double>(size)), hidden.options());
  const at::Tensor of_token =
      at::embedding(layer_embedding_, at::tensor(ids, at::kLong).to(hidden.device())) * factor;
  const double by_hidden = 1 / std::sqrt(static_cast<double>(hidden.size(1)));
  const at::Tensor of_embedding = layer_inputs_norm_(by_layer(layer_inputs_(hidden) * by_hidden));
  return (of_embedding + by_layer(of_token)) * std::sqrt(0.5);
}

at::Tensor Decoder::QueryScale(const std::vector<int64_t>& positions) const {
  const ArchitectureConfig& config = parts_.config;
  if (config.query_scale_beta == 0) return {};
  const at::Tensor turns =
      at::floor(at::tensor(positions, at::kLong).to(at::kFloat) / config.query_scale_context);
  return (1 + config.query_scale_beta * at::log1p(turns))
      .view({-1, 1, 1})
      .to(embedding_.device(), embedding_.scalar_type());
}

at::Tensor Decoder::RunPass(const std::vector<Piece>& pieces) {
  std::vector<int64_t> ids;
  std::vector<int64_t> positions;
  std::vector<int64_t> lengths;
  std::vector<int64_t> logit_rows;
  std::vector<KvRows> segments;
  std::vector<int64_t> slots;
  for (const Piece& piece : pieces) {
    const auto count = static_cast<int64_t>(piece.token_ids.size());
    const auto first_row = static_cast<int64_t>(ids.size());
    const int64_t past = piece.state->length();
    segments.push_back({piece.state->blocks(), past, first_row, count});
    slots.push_back(piece.state->slot());
    for (int64_t i = 0; i < count; ++i) {
      ids.push_back(piece.token_ids[i]);
      positions.push_back(past + i);
      lengths.push_back(piece.length);
      if (i >= piece.first_logit_row) logit_rows.push_back(first_row + i);
    }
  }
  const at::ScalarType turn_dtype =
      parts_.config.exact_rope ? at::kFloat : embedding_.scalar_type();
  std::vector<Turns> turns;
  for (const Rope& rope : ropes_) {
    turns.push_back(rope.At(positions, lengths, turn_dtype));
  }
  std::vector<RowGroup> groups;
  if (parts_.states) groups = GroupRows(segments, slots, embedding_.device());
  at::Tensor hidden = Embed(ids, positions);
  Pass pass = {.turns = std::move(turns),
               .query_scale = QueryScale(positions),
               .segments = std::move(segments),
               .kv = parts_.kv.get(),
               .threads = parts_.threads.get(),
               .states = parts_.states.get(),
               .groups = std::move(groups),
               .layer_inputs = LayerInputs(ids, hidden)};
  hidden = layers_.Forward(std::move(hidden), std::move(pass));
  for (const Piece& piece : pieces) {
    const auto count = std::ssize(piece.token_ids);
    piece.state->Advance(count, piece.length);
    if (piece.keeps_snapshot) piece.state->KeepSnapshot(/*replaces=*/count == 1);
  }
  if (logit_rows.size() == ids.size()) return hidden;
  return hidden.index_select(0, at::tensor(logit_rows, at::kLong).to(hidden.device()));
}

void Decoder::WriteLogits(const at::Tensor& hidden, std::span<const int64_t> rows,
                          at::Tensor& out) const {
  const ArchitectureConfig& config = parts_.config;
  const ModelDevices& devices = *parts_.devices;
  for (int64_t row = 0; row < hidden.size(0); row += kHeadRows) {
    const int64_t count = std::min(kHeadRows, hidden.size(0) - row);
    const at::Tensor normed = devices.Moved(final_norm_(hidden.narrow(0, row, count)),
                                            devices.map().norm, devices.map().head);
    at::Tensor logits =
        head_bias_.defined() ? at::linear(normed, head_, head_bias_) : at::linear(normed, head_);
    logits = logits.to(at::kFloat);
    if (config.logit_multiplier != 1) logits = logits * config.logit_multiplier;
    if (config.logit_softcap > 0) {
      logits = at::tanh(logits / config.logit_softcap) * config.logit_softcap;
    }
    for (int64_t i = 0; i < count; ++i) out.select(0, rows[row + i]).copy_(logits.select(0, i));
  }
}

at::Tensor Decoder::Forward(const std::vector<Segment>& segments) {
  int64_t rows = 0;
  for (const Segment& segment : segments) {
    rows += segment.wants_all_logits ? static_cast<int64_t>(segment.token_ids.size())
                                     : static_cast<int64_t>(segment.wants_logits);
  }
  // Made outside of inference mode: the caller may write to it.
  at::Tensor logits = at::empty({rows, vocab_size()}, at::kFloat);
  if (segments.empty()) return logits;
  Check(segments);
  const c10::InferenceMode inference;
  for (const std::vector<Piece>& pieces : PassesOf(segments)) {
    std::vector<int64_t> out_rows;
    for (const Piece& piece : pieces) {
      const int64_t wanted = std::ssize(piece.token_ids) - piece.first_logit_row;
      for (int64_t i = 0; i < wanted; ++i) out_rows.push_back(piece.out_row + i);
    }
    WriteLogits(RunPass(pieces), out_rows, logits);
  }
  return logits;
}

}  // namespace modeld
