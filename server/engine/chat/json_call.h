// Reads calls that are JSON objects such as {"name": "f", "arguments": {"x": 1}}.
#pragma once

#include <string>
#include <string_view>

#include "server/engine/chat/call_output.h"
#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/json_scanner.h"
#include "server/engine/chat/mark_scanner.h"

namespace modeld {

// One object. "parameters" stands for "arguments", whose value is an object, or a string with the
// JSON of one; "id" counts when it comes before the arguments; other keys are left out. Arguments
// go out byte by byte as soon as the name is known. One thread at a time.
class JsonCall {
 public:
  enum class Arguments { kOptional, kRequired };
  enum class Step { kMore, kDone, kBroken };

  explicit JsonCall(Arguments arguments) : arguments_(arguments) {}

  // kDone: taken, and the call went out complete. kBroken: not taken. A mark that was found in text
  // is text inside a string.
  Step Put(const Symbol& symbol, CallOutput& out);

 private:
  enum class At { kStart, kKeyOrEnd, kKey, kColon, kValue, kCommaOrEnd };

  Step PutByte(char c, CallOutput& out);
  Step PutStructure(char c, CallOutput& out);
  bool BeginValue();
  Step PutValue(char c, CallOutput& out);
  bool EndValue(CallOutput& out);
  void GiveArguments(CallOutput& out);
  Step EndCall(CallOutput& out);
  bool IsArguments() const { return key_ == "arguments" || key_ == "parameters"; }

  Arguments arguments_;
  At at_ = At::kStart;
  JsonScanner scanner_;  // of the key or value at hand
  std::string raw_;      // its bytes
  std::string key_;
  std::string name_;
  std::string id_;
  bool has_arguments_ = false;
  bool begun_ = false;
  std::string held_arguments_;
};

// The objects of a list, or one alone. One thread at a time.
class JsonCalls {
 public:
  enum class Step {
    kMore,      // taken
    kCallDone,  // taken; a call went out complete
    kDone,      // taken; after the last call
    kBroken,    // not taken
  };

  explicit JsonCalls(JsonCall::Arguments arguments) : arguments_(arguments), call_(arguments) {}

  // Not to be called again after kDone and kBroken, or after kCallDone of an object alone.
  Step Put(const Symbol& symbol, CallOutput& out);

  bool is_list() const { return is_list_; }

 private:
  enum class At { kStart, kCall, kCommaOrEnd };

  JsonCall::Arguments arguments_;
  At at_ = At::kStart;
  bool is_list_ = false;
  JsonCall call_;
};

// Reads the JSON object of arguments that follows a name and begins the call with its first byte.
// One thread at a time.
class JsonArguments {
 public:
  // kSettled: taken, and the call went out complete. kBroken: not taken, or no tool has the name.
  // Never kLeft.
  CallReader::Step Put(const Symbol& symbol, std::string_view name, std::string_view id,
                       CallOutput& out);

 private:
  JsonScanner scanner_;
  bool begun_ = false;
};

}  // namespace modeld
