// How much memory a model needs beside its weights and what sequences keep: the one source of these
// figures, for what inspect says and for what the engine plans with.
#pragma once

#include <cstdint>

#include "server/engine/weights/config.h"

namespace modeld {

// Tokens that go through the layers at once. A longer step is cut, so that its workspace stays what
// the budget was computed with; only a whole text can be longer.
inline constexpr int64_t kPassTokens = 512;
// Rows that go through the head at once.
inline constexpr int64_t kHeadRows = 64;
// Tokens of a recurrence that are computed by products of matrices instead of one after the other.
inline constexpr int64_t kChunkTokens = 64;
// Attention numbers of queries and keys that AttendWhole has at once.
inline constexpr int64_t kScoresMax = 2 << 20;

// Matrices that are alive at once while a pass goes through a layer, of a model that generates: on
// every device with layers or the embedding. Of a model that makes vectors: what comes to
// RowBytes() for each token of the longest text, which is at least kPassTokens.
int64_t PassBytes(const ArchitectureConfig& config);

// The logits of one call of the head, rounded and exact; 0 for a model that makes vectors.
int64_t LogitsBytes(const ArchitectureConfig& config);

// Of each sequence, on every device with layers other than attention: a layer's part of the state
// has copies while the layer runs.
int64_t StateCopiesBytes(const ArchitectureConfig& config);

}  // namespace modeld
