// What is read from a row of logits as the model made it.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "server/engine/batch/request.h"

namespace modeld {

// INTERNAL for logits that are no distribution: a NaN, +Inf, or nothing above -Inf.
absl::Status CheckLogits(std::span<const float> logits);

// Log-probabilities of the token `chosen` and of the `top` likeliest ones; of equally likely ones
// the first come first.
PositionLogprobs LogprobsOf(std::span<const float> logits, int64_t chosen, int64_t top);

}  // namespace modeld
