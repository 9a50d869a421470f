// Bounds of what one request may ask for.
#pragma once

#include <cstdint>

namespace modeld {

// How much a request may ask for; the section `limits` of the configuration has these names.
struct RequestLimits {
  int64_t prompt_bytes_max = 16'777'216;  // text to be tokenized, or a conversation
  int64_t choices_max = 32;               // n, best_of and num_beams
  int64_t stop_max = 16;                  // strings, and again as many tokens
  int64_t stop_bytes_max = 1'000;         // of each string that is looked for or kept out
  int64_t logprobs_max = 20;              // alternatives for each token
  int64_t logit_bias_max = 1'024;         // entries
  int64_t bad_words_max = 1'024;
  int64_t dry_breakers_max = 64;
  int64_t schema_bytes_max = 262'144;     // of a JSON schema
  int64_t regex_bytes_max = 16'384;       // of a regular expression
  int64_t grammar_bytes_max = 65'536;     // of a grammar
  int64_t structure_choices_max = 1'024;  // texts, each of stop_bytes_max at most
  int64_t tools_max = 128;                // functions of a conversation

  bool operator==(const RequestLimits&) const = default;
};

}  // namespace modeld
