// How attention works, as config.json says.
#pragma once

#include <cstdint>
#include <vector>

namespace modeld {

// How positions turn queries and keys.
struct RopeConfig {
  enum class Kind {
    kDefault,
    kLinear,
    kLlama3,
    kYarn,
    kLongRope,
    kProportional,  // frequencies of the whole head, of which the last ones are 0
  };

  Kind kind = Kind::kDefault;
  double theta = 10000;
  int64_t rotary_dim = 0;             // elements of a head that are turned: the first ones; even
  int64_t turned_dim = 0;             // kProportional; of rotary_dim those with a frequency
  double factor = 1;                  // all but kDefault
  double low_frequency_factor = 1;    // kLlama3
  double high_frequency_factor = 4;   // kLlama3
  double beta_fast = 32;              // kYarn
  double beta_slow = 1;               // kYarn
  bool truncate = true;               // kYarn: whole bounds of the ramp
  double attention_factor = 1;        // of cosines and sines
  double score_factor = 1;            // kYarn; of products of queries and keys, for LatentConfig
  int64_t original_context = 8192;    // kLlama3, kYarn, kLongRope; tokens
  std::vector<double> short_factors;  // kLongRope; of sequences up to original_context
  std::vector<double> long_factors;   // kLongRope; of longer ones
};

enum class QkNorm {
  kNone,
  kHead,   // of each head
  kWhole,  // of the heads of a token together
};

// How the projections to queries, keys and values are stored.
enum class QkvLayout {
  kSeparate,
  kFused,        // one matrix: all query heads, all key heads, all value heads
  kFusedByHead,  // one matrix: query, key and value of the first head, of the second, ...
};

// Keys and values of all heads are made from one small vector of each token, which alone is cached
// (DeepSeek's multi-head latent attention).
struct LatentConfig {
  int64_t query_rank = 0;  // of queries, which are made in two steps; 0: in one
  int64_t kv_rank = 0;     // of keys and values; 0: ordinary attention
  int64_t nope_dim = 0;    // elements of a head that positions do not turn
  int64_t rope_dim = 0;    // and those that they do; the keys of all heads share them
  int64_t value_dim = 0;
};

}  // namespace modeld
