#include "server/engine/chat/marked_json.h"

namespace modeld {

CallReader::Step MarkedJsonReader::Put(const Symbol& symbol, CallOutput& out) {
  if (!in_json_) {
    if (symbol.is_space()) return Step::kSettled;
    if (!symbol.is_byte() && symbol.mark == close_) {
      is_closed_ = true;
      return Step::kSettled;
    }
    // Several objects may follow one opening mark.
    const bool is_more = !is_closed_ && symbol.is_byte() && symbol.byte == '{';
    if (symbol.is_byte() && !is_more) return Step::kLeft;
    is_closed_ = false;
    in_json_ = true;
    calls_ = JsonCalls(JsonCall::Arguments::kOptional);
    if (!is_more) return Step::kPending;
  }
  switch (calls_.Put(symbol, out)) {
    case JsonCalls::Step::kMore:
      return Step::kPending;
    case JsonCalls::Step::kCallDone:
      in_json_ = calls_.is_list();
      return Step::kSettled;
    case JsonCalls::Step::kDone:
      in_json_ = false;
      return Step::kSettled;
    case JsonCalls::Step::kBroken:
      break;
  }
  return Step::kBroken;
}

}  // namespace modeld
