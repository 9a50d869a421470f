#include "server/engine/models/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "server/base/status.h"

namespace modeld {

Decoder::Decoder(DecoderParts parts)
    : parts_(std::move(parts)),
      rope_(parts_.config.rope, parts_.config.head_dim, parts_.embedding.device()) {}

std::unique_ptr<SequenceState> Decoder::NewSequence() {
  return std::make_unique<PagedState>(parts_.kv);
}

int64_t Decoder::kv_tokens_total() const { return parts_.kv->options().blocks * kKvBlockTokens; }

int64_t Decoder::kv_tokens_free() const { return parts_.kv->blocks_free() * kKvBlockTokens; }

std::vector<std::vector<Decoder::Piece>> Decoder::PassesOf(
    const std::vector<Segment>& segments) const {
  std::vector<std::vector<Piece>> passes(1);
  int64_t room = kPassTokens;
  for (const Segment& segment : segments) {
    auto* state = static_cast<PagedState*>(segment.state);  // made by NewSequence()
    const auto count = static_cast<int64_t>(segment.token_ids.size());
    MODELD_CHECK(count > 0, "a segment without tokens");
    MODELD_CHECK(state->length() + count <= state->capacity(), "a step without reserved room");
    for (const int64_t id : segment.token_ids) {
      TORCH_CHECK(id >= 0 && id < vocab_size(), "token ", id, " of ", vocab_size());
    }
    const int64_t first_logit =
        segment.wants_all_logits ? 0 : (segment.wants_logits ? count - 1 : count);
    for (int64_t begin = 0; begin < count;) {
      if (room == 0) {
        passes.emplace_back();
        room = kPassTokens;
      }
      const int64_t length = std::min(room, count - begin);
      passes.back().push_back({state, std::span(segment.token_ids).subspan(begin, length),
                               std::clamp<int64_t>(first_logit - begin, 0, length)});
      begin += length;
      room -= length;
    }
  }
  return passes;
}

at::Tensor Decoder::RunPass(const std::vector<Piece>& pieces) {
  std::vector<int64_t> ids;
  std::vector<int64_t> positions;
  std::vector<int64_t> logit_rows;
  std::vector<KvRows> segments;
  for (const Piece& piece : pieces) {
    const auto count = static_cast<int64_t>(piece.token_ids.size());
    const auto first_row = static_cast<int64_t>(ids.size());
    const int64_t past = piece.state->length();
    segments.push_back({piece.state->blocks(), past, first_row, count});
    for (int64_t i = 0; i < count; ++i) {
      ids.push_back(piece.token_ids[i]);
      positions.push_back(past + i);
      if (i >= piece.first_logit_row) logit_rows.push_back(first_row + i);
    }
  }
  const at::Device device = parts_.embedding.device();
  auto [cos, sin] = rope_.CosSin(positions, parts_.embedding.scalar_type());
  const Pass pass = {std::move(cos), std::move(sin), std::move(segments), *parts_.kv,
                     *parts_.threads};
  at::Tensor hidden =
      at::embedding(parts_.embedding, at::tensor(ids, at::kLong).to(device));  // [rows, hidden]
  for (const auto& layer : parts_.layers) hidden = layer->Forward(hidden, pass);
  for (const Piece& piece : pieces) {
    piece.state->Advance(static_cast<int64_t>(piece.token_ids.size()));
  }
  if (logit_rows.size() == ids.size()) return hidden;
  return hidden.index_select(0, at::tensor(logit_rows, at::kLong).to(device));
}

void Decoder::WriteLogits(const at::Tensor& hidden, at::Tensor out) const {
  for (int64_t row = 0; row < hidden.size(0); row += kHeadRows) {
    const int64_t count = std::min(kHeadRows, hidden.size(0) - row);
    const at::Tensor normed = parts_.final_norm(hidden.narrow(0, row, count));
    out.narrow(0, row, count).copy_(at::linear(normed, parts_.head));
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
  const c10::InferenceMode inference;
  int64_t written = 0;
  for (const std::vector<Piece>& pieces : PassesOf(segments)) {
    const at::Tensor hidden = RunPass(pieces);
    WriteLogits(hidden, logits.narrow(0, written, hidden.size(0)));
    written += hidden.size(0);
  }
  return logits;
}

}  // namespace modeld
