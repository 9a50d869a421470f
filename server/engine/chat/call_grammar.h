// A grammar that makes a model call functions, in its own way of writing calls.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/engine/chat/call_form.h"

namespace modeld {

// A function that may be called.
struct CallableTool {
  std::string name;
  nlohmann::ordered_json parameters;  // JSON schema of the arguments object
  std::string field;                  // of the request, for errors
};

struct CallGrammarOptions {
  bool one_call = false;  // else one or more
  // Free text up to the second comes before the calls, after the first one unless that is empty
  // (the prompt has it); nothing: no reasoning.
  struct Reasoning {
    std::string open;
    std::string close;
  };
  std::optional<Reasoning> reasoning;
  // Spellings and ids of the vocabulary's special tokens, longest first: each is its token where it
  // stands in a form, never text.
  std::vector<std::pair<std::string, int64_t>> special_tokens;
};

// In llguidance's variant of Lark. INVALID_FIELD for a schema that is not that of an object, and,
// where parameters are written one by one, for what cannot be written so or would not be enforced;
// whether the schemas as such are supported says GrammarCompiler.
absl::StatusOr<std::string> CallGrammar(const CallForm& form,
                                        const std::vector<CallableTool>& tools,
                                        const CallGrammarOptions& options);

}  // namespace modeld
