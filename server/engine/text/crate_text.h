// What every call of the crate's C ABI needs: text in, owned text out, failures as Status.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/engine/text/crate/modeld_text.h"

namespace modeld {

inline modeld_text_view ToView(std::string_view text) { return {text.data(), text.size()}; }

// Copies `bytes` and gives them back to the crate.
std::string TakeText(modeld_text_bytes bytes);

// The status of a call that did not return MODELD_TEXT_OK; takes `error`. `what` names the file or
// the work: "tokenizer.json"; for a grammar the field that holds it. INVALID_REPOSITORY for a
// broken file, INVALID_FIELD for what a request holds, METHOD_NOT_SUPPORTED for what this tokenizer
// cannot, QUEUE_FULL for what must wait.
absl::Status TakeFailure(modeld_text_kind kind, modeld_text_bytes error, std::string_view what);

}  // namespace modeld
