// Calls as JSON between marks.
#pragma once

#include <memory>
#include <string_view>

#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/json_call.h"

namespace modeld {

// After each opening mark JSON objects or a list of them; the closing mark may be missing. One
// thread at a time.
class MarkedJsonReader final : public CallReader {
 public:
  // What `close` names is of static storage; empty: no mark closes.
  explicit MarkedJsonReader(std::string_view close) : close_(close) {}

  Step Put(const Symbol& symbol, CallOutput& out) override;
  bool Finish(CallOutput& /*out*/) override { return !in_json_; }

 private:
  const std::string_view close_;
  bool in_json_ = false;
  bool is_closed_ = true;
  JsonCalls calls_{JsonCall::Arguments::kOptional};
};

}  // namespace modeld
