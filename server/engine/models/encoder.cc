#include "server/engine/models/encoder.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

namespace modeld {
namespace {

// Distances of this many tokens and more are one kind.
constexpr double kFarDistance = 128;

// The kind of each distance of -(n - 1) to n - 1 tokens. Near ones are a kind each, far ones share
// kinds that grow with the logarithm; what lies after a token has kinds of its own.
at::Tensor DistanceKinds(int64_t n) {
  constexpr int64_t kSide = kRelativeBuckets / 2;
  constexpr int64_t kNear = kSide / 2;
  const at::Tensor distance = at::arange(1 - n, n, at::kLong);  // key minus query
  const at::Tensor size = distance.abs();
  // In float32, as the reference does: the limits between kinds depend on it.
  const at::Tensor share = at::log(size.clamp_min(1).to(at::kFloat) / kNear) /
                           std::log(kFarDistance / kNear) * (kSide - kNear);
  const at::Tensor far = (kNear + share.to(at::kLong)).clamp_max(kSide - 1);
  return at::where(size < kNear, size, far) + (distance > 0).to(at::kLong) * kSide;
}

}  // namespace

Encoder::Encoder(const ArchitectureConfig& config, int64_t max_context, const TensorSource& source,
                 const std::shared_ptr<const ModelDevices>& devices)
    : config_(config),
      max_context_(max_context),
      embedding_(source.Get("model.embed_tokens.weight")),
      layers_(source, config, devices) {
  const at::Device device = embedding_.device();
  if (config.position_embedding) {
    position_embedding_ = source.Get("model.embed_positions.weight");
  }
  if (config.token_types > 0) type_embedding_ = source.Get("model.embed_types.weight")[0];
  if (config.relative_buckets > 0) {
    const at::Tensor logits = source.Get("model.relative_bias.weight").to(at::kFloat);
    distance_logits_ =
        logits.index_select(0, DistanceKinds(max_context).to(device)).t().contiguous();
  }
  if (config.embedding_norm) {
    embedding_norm_ = Norm(source, "model.embed_norm", config.norm, config.norm_eps);
  }
  for (const RopeConfig& rope : config.ropes) ropes_.emplace_back(rope, device);
  if (config.final_norm) final_norm_ = Norm(source, "model.norm", config.norm, config.norm_eps);
}

void Encoder::Check(std::span<const int64_t> text) const {
  TORCH_CHECK(!text.empty() && std::ssize(text) <= max_context_, "a text of ", text.size(),
              " tokens, at most ", max_context_);
  for (const int64_t id : text) {
    TORCH_CHECK(id >= 0 && id < vocab_size(), "token ", id, " of ", vocab_size());
  }
}

std::vector<int64_t> Encoder::PositionRows(
    const std::vector<std::span<const int64_t>>& texts) const {
  std::vector<int64_t> rows;
  for (const std::span<const int64_t> text : texts) {
    int64_t next = config_.position_offset;
    for (const int64_t id : text) {
      const bool is_padding = id == config_.pad_token_id;
      rows.push_back(is_padding ? config_.position_offset - 1 : next++);
    }
  }
  return rows;
}

at::Tensor Encoder::Embed(const std::vector<std::span<const int64_t>>& texts) const {
  std::vector<int64_t> ids;
  for (const std::span<const int64_t> text : texts) ids.insert(ids.end(), text.begin(), text.end());
  const auto rows_of = [&](const at::Tensor& table, const std::vector<int64_t>& rows) {
    return at::embedding(table, at::tensor(rows, at::kLong).to(table.device()));
  };
  at::Tensor hidden = rows_of(embedding_, ids);
  // The factor is rounded first, as the reference does.
  const double multiplier = config_.embedding_multiplier;
  if (multiplier != 1) hidden = hidden * at::scalar_tensor(multiplier, hidden.options());
  if (type_embedding_.defined()) hidden = hidden + type_embedding_;
  if (position_embedding_.defined()) {
    hidden = hidden + rows_of(position_embedding_, PositionRows(texts));
  }
  return embedding_norm_(hidden);
}

at::Tensor Encoder::Forward(const std::vector<std::span<const int64_t>>& texts) const {
  std::vector<int64_t> positions;
  std::vector<int64_t> lengths;
  Pass pass;
  for (const std::span<const int64_t> text : texts) {
    Check(text);
    const int64_t tokens = std::ssize(text);
    pass.segments.push_back(
        {.blocks = {}, .past = 0, .first_row = std::ssize(positions), .rows = tokens});
    for (int64_t i = 0; i < tokens; ++i) positions.push_back(i);
    lengths.insert(lengths.end(), tokens, tokens);
  }
  const c10::InferenceMode inference;
  const at::ScalarType turn_dtype = config_.exact_rope ? at::kFloat : embedding_.scalar_type();
  for (const Rope& rope : ropes_) pass.turns.push_back(rope.At(positions, lengths, turn_dtype));
  if (distance_logits_.defined()) pass.distance_logits = distance_logits_;
  return final_norm_(layers_.Forward(Embed(texts), std::move(pass)));
}

}  // namespace modeld
