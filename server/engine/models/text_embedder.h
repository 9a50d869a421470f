// A model with all that turns texts into vectors.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "server/engine/models/encoder.h"
#include "server/engine/models/sentence_head.h"
#include "server/engine/weights/sentence_config.h"

namespace modeld {

// One text, tokenized.
struct TokenizedText {
  std::vector<int64_t> token_ids;  // not empty, at most max_context of them
  int64_t prompt_tokens = 0;       // at the beginning
};

// One thread at a time.
class TextEmbedder {
 public:
  TextEmbedder(Encoder encoder, SentenceHead head, SentenceConfig config);

  // A vector of dimensions() for each text, before `normalize` of the configuration. Texts of the
  // same length are best neighbours. Throws c10::Error, see Encoder::Forward.
  std::vector<std::vector<float>> Embed(std::span<const TokenizedText* const> texts) const;

  const SentenceConfig& config() const { return config_; }
  int64_t dimensions() const { return config_.dimensions; }
  int64_t vocab_size() const { return encoder_.vocab_size(); }

 private:
  const Encoder encoder_;
  const SentenceHead head_;
  const SentenceConfig config_;
};

}  // namespace modeld
