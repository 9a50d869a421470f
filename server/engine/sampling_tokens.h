// The part of a request's sampling that needs the model's tokenizer.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "server/core/sampling.h"
#include "server/engine/text/tokenizer.h"

namespace modeld {

// Fills Sampling::bad_words (each with and without a space in front) and the breakers of DRY.
// INVALID_FIELD for a token id that the model does not have.
absl::Status AddTokens(const SamplingRequest& request, const Tokenizer& tokenizer,
                       int64_t vocab_size, Sampling& sampling);

}  // namespace modeld
