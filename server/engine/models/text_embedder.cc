#include "server/engine/models/text_embedder.h"

#include <ATen/ATen.h>

#include <utility>

namespace modeld {

TextEmbedder::TextEmbedder(Encoder encoder, SentenceHead head, SentenceConfig config)
    : encoder_(std::move(encoder)), head_(std::move(head)), config_(std::move(config)) {}

std::vector<std::vector<float>> TextEmbedder::Embed(
    std::span<const TokenizedText* const> texts) const {
  const c10::InferenceMode inference;
  std::vector<std::span<const int64_t>> ids;
  for (const TokenizedText* text : texts) ids.emplace_back(text->token_ids);
  const at::Tensor tokens = encoder_.Forward(ids);
  std::vector<at::Tensor> vectors;
  int64_t row = 0;
  for (const TokenizedText* text : texts) {
    const int64_t count = std::ssize(text->token_ids);
    vectors.push_back(head_(tokens.narrow(0, row, count), text->prompt_tokens));
    row += count;
  }
  const at::Tensor all = at::stack(vectors).cpu().contiguous();  // [texts, dimensions]
  std::vector<std::vector<float>> out;
  const float* data = all.data_ptr<float>();
  for (int64_t i = 0; i < all.size(0); ++i, data += all.size(1)) {
    out.emplace_back(data, data + all.size(1));
  }
  return out;
}

}  // namespace modeld
