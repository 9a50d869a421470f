// Answers as models write them, for each style by the rules of its chat templates, and what they
// mean.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/engine/chat/answer_format.h"
#include "server/engine/chat/answer_parser.h"

namespace modeld {

using Json = nlohmann::ordered_json;

// JSON text as Python's json.dumps writes it, and with it the templates.
std::string PythonJson(const Json& value);

struct Call {
  std::string name;
  Json arguments;
};

struct Meaning {
  std::string reasoning;
  std::string text;
  std::vector<Call> calls;
};

struct Transcript {
  std::string written;  // with marks spelled out
  Meaning meaning;
};

struct StyleUnderTest {
  std::string name;
  std::string template_source;  // enough of one to be told by
  std::string (*write)(const Meaning& meaning);
  bool has_reasoning = true;
  bool has_text_beside_calls = true;
  bool has_several_calls = true;
};

const std::vector<StyleUnderTest>& StylesUnderTest();

// The meanings of every transcript, made to what the style can say. At least 30.
std::vector<Transcript> TranscriptsOf(const StyleUnderTest& style);

// The functions that the transcripts call.
std::shared_ptr<const ToolSet> TestTools();

enum class Marks { kText, kTokens };

AnswerFormat FormatOf(const StyleUnderTest& style, Marks marks);

// The transcript as the engine hands it to the parser.
std::string Encoded(const std::string& written, const AnswerFormat& format);

// All pieces of an answer, put together.
struct Events {
  std::string reasoning;
  std::string text;
  std::vector<ToolCallPiece> calls;
  int complete_calls = 0;

  bool operator==(const Events&) const = default;
};

Events Parse(const AnswerFormat& format, const std::vector<std::string>& pieces);

}  // namespace modeld
