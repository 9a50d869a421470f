#include "server/engine/text/crate_text.h"

#include "absl/strings/str_format.h"
#include "server/core/reason.h"

namespace modeld {

std::string TakeText(modeld_text_bytes bytes) {
  std::string text(bytes.data == nullptr ? "" : std::string(bytes.data, bytes.size));
  modeld_text_free_bytes(bytes);
  return text;
}

absl::Status TakeFailure(modeld_text_kind kind, modeld_text_bytes error, std::string_view what) {
  const std::string message = TakeText(error);
  switch (kind) {
    case MODELD_TEXT_BROKEN_FILE:
      return Error(Reason::kInvalidRepository, absl::StrFormat("%s: %s", what, message));
    case MODELD_TEXT_BAD_TEXT:
      return InvalidField("text", message);
    case MODELD_TEXT_BAD_IDS:
      return InvalidField("token_ids", message);
    case MODELD_TEXT_BAD_MESSAGES:
      return InvalidField("messages", message);
    case MODELD_TEXT_BAD_TOOLS:
      return InvalidField("tools", message);
    case MODELD_TEXT_BAD_ARGS:
      return InvalidField("template_args", message);
    case MODELD_TEXT_REFUSED:
      return InvalidField("messages", absl::StrFormat("%s: %s", what, message));
    case MODELD_TEXT_BAD_GRAMMAR:
      return InvalidField(std::string(what), message);
    case MODELD_TEXT_UNSUPPORTED:
      return Error(Reason::kMethodNotSupported, message);
    case MODELD_TEXT_BUSY:
      return Error(Reason::kQueueFull, message);
    case MODELD_TEXT_OK:
    case MODELD_TEXT_FAILED:
      break;
  }
  return Error(Reason::kInternal, absl::StrFormat("%s: %s", what, message));
}

}  // namespace modeld
