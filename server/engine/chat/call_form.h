// How a model writes calls of functions out, piece by piece.
#pragma once

#include <string_view>

namespace modeld {

// open CALL {separator CALL} close, where CALL is head NAME middle ARGUMENTS tail. A piece may have
// kAnyNumber in it. What the style's CallReader takes is wider.
struct CallForm {
  static constexpr char kAnyNumber = '\x01';  // stands for one to three digits

  // What the chat template of a model has in it that writes so, among models of one style; empty:
  // all others.
  std::string_view evidence;
  std::string_view open;
  std::string_view head;
  std::string_view middle;
  std::string_view tail;
  std::string_view separator;
  std::string_view close;
  bool is_name_in_json = false;  // NAME stands in a JSON string
  bool is_one_call = false;      // the answer ends behind it

  // ARGUMENTS is a JSON object unless parameter_head is set; then each parameter is parameter_head
  // KEY text_middle or json_middle VALUE parameter_tail, a text as it is and others as JSON.
  std::string_view parameter_head;
  std::string_view text_middle;
  std::string_view json_middle;
  std::string_view parameter_tail;
};

}  // namespace modeld
