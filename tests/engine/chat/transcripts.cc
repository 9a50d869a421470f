#include "tests/engine/chat/transcripts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace modeld {
namespace {

std::vector<Meaning> AllMeanings() {
  const auto json = [](const char* text) { return Json::parse(text); };
  const Json paris = json(R"({"city": "Paris"})");
  return {
      {"", "The capital of France is Paris.", {}},
      {"", "First line.\n\n- a < b\n- <b>bold</b> & [link](x)\n", {}},
      {"", "\u00fcber \u65e5\u672c\u8a9e \U0001F642 \u2014 done", {}},
      {"",
       "Some code:\n```json\n{\"name\": \"get_weather\", \"arguments\": {}}\n```\nThat is all.",
       {}},
      {"", "1 < 2 << 3 <tool <function <| [TOOL", {}},
      {"The user wants a greeting.", "Hello!", {}},
      {"Line one.\n\nLine three: a </thin> b < c.", "Yes.\nNo.", {}},
      {"Only thoughts, and then nothing", "", {}},
      {"\u8003\u3048\u308b \U0001F914", "\u7b54\u3048", {}},
      {"", "", {{"get_weather", paris}}},
      {"", "", {{"now", json("{}")}}},
      {"", "Let me look that up.", {{"get_weather", paris}}},
      {"It asks for the weather.", "", {{"get_weather", paris}}},
      {"It asks for the weather.\nSo call.", "One moment.", {{"get_weather", paris}}},
      {"", "", {{"get_weather", paris}, {"get_weather", json(R"({"city": "Rome"})")}}},
      {"",
       "Three things.",
       {{"now", json("{}")}, {"get_weather", paris}, {"add", json(R"({"a": 1, "b": -2})")}}},
      {"Two of a kind.", "", {{"now", json("{}")}, {"now", json("{}")}}},
      {"", "", {{"get_weather", json(R"({"city": "K\u00f6ln \u6771\u4eac \ud83d\ude42"})")}}},
      {"",
       "",
       {{"write_file", json(R"({"path": "C:\\a\"b\".txt", "text": "say \"hi\"\tto\\all"})")}}},
      {"", "", {{"write_file", json(R"({"text": "\nfirst\nlast\n", "path": "a.txt"})")}}},
      {"",
       "",
       {{"write_file",
         json(R"({"path": "x.html", "text": "<div class='a'>{[\"}</div>\n  <p>a < b</p>"})")}}},
      {"", "", {{"search", json(R"({"filter": {"any": [{"k": 1}, {"k": [true, null]}]}})")}}},
      {"", "", {{"search", json(R"({"filter": {}, "tags": []})")}}},
      {"", "", {{"search", json(R"({"tags": ["a", "b \"c\"", "\u00e4"], "limit": 10})")}}},
      {"", "", {{"add", json(R"({"a": -12, "b": 0.5})")}}},
      {"", "", {{"add", json(R"({"a": 12345678901234567, "b": 1.5e+300})")}}},
      {"", "", {{"search", json(R"({"exact": true, "limit": null})")}}},
      {"", "", {{"search", json(R"({"exact": false, "query": ""})")}}},
      {"", "", {{"search", json(R"({"query": "42"})")}}},
      {"", "", {{"search", json(R"({"query": "null", "max-items": 3})")}}},
      {"", "", {{"db.query-2", json(R"({"sql": "SELECT * FROM t WHERE a > 1 AND b < 2;"})")}}},
      {"Hm.",
       "Now all at once:",
       {{"db.query-2", json(R"({"sql": "x"})")},
        {"search", json(R"({"filter": {"a": {"b": {"c": [[1], [2, 3]]}}}})")},
        {"write_file", json(R"({"path": "", "text": "\n"})")}}},
      {"",
       "",
       {{"write_file", json(R"({"path": "long", "text": ")"
                            "0123456789 the quick brown fox jumps over the lazy dog "
                            "0123456789 the quick brown fox jumps over the lazy dog"
                            R"("})")}}},
  };
}

std::string Thought(const Meaning& meaning, const char* open, const char* close) {
  return meaning.reasoning.empty() ? "" : absl::StrCat(open, meaning.reasoning, close);
}

std::string JsonOf(const Call& call, const char* arguments_key = "arguments") {
  return absl::StrCat("{\"name\": ", PythonJson(call.name), ", \"", arguments_key,
                      "\": ", PythonJson(call.arguments), "}");
}

// A value as a template prints it that uses tojson for objects and lists only.
std::string Printed(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_null()) return "None";
  return PythonJson(value);
}

std::string WriteHermes(const Meaning& meaning) {
  std::string out = Thought(meaning, "<think>\n", "\n</think>\n\n") + meaning.text;
  for (size_t i = 0; i < meaning.calls.size(); ++i) {
    if (i > 0 || !meaning.text.empty()) out += "\n";
    absl::StrAppend(&out, "<tool_call>\n", JsonOf(meaning.calls[i]), "\n</tool_call>");
  }
  return out;
}

std::string WriteToolcallList(const Meaning& meaning) {
  std::string out = Thought(meaning, "<think>\n", "\n</think>\n\n") + meaning.text;
  if (meaning.calls.empty()) return out;
  std::vector<std::string> calls;
  for (const Call& call : meaning.calls) calls.push_back(JsonOf(call));
  return absl::StrCat(out, out.empty() ? "" : "\n", "<TOOLCALL>[", absl::StrJoin(calls, ", "),
                      "]</TOOLCALL>");
}

std::string WriteQwen3Coder(const Meaning& meaning) {
  std::string out = Thought(meaning, "<think>\n", "\n</think>\n\n") + meaning.text;
  if (!meaning.text.empty() && !meaning.calls.empty()) out += "\n\n";
  for (const Call& call : meaning.calls) {
    if (&call != meaning.calls.data()) out += "\n";
    absl::StrAppend(&out, "<tool_call>\n<function=", call.name, ">\n");
    for (const auto& [key, value] : call.arguments.items()) {
      absl::StrAppend(&out, "<parameter=", key, ">\n", Printed(value), "\n</parameter>\n");
    }
    out += "</function>\n</tool_call>";
  }
  return out;
}

std::string WriteLlama3(const Meaning& meaning) {
  std::vector<std::string> calls;
  for (const Call& call : meaning.calls) calls.push_back(JsonOf(call, "parameters"));
  return meaning.text + absl::StrJoin(calls, "; ");
}

std::string WriteMistralList(const Meaning& meaning) {
  if (meaning.calls.empty()) return meaning.text;
  std::vector<std::string> calls;
  for (const Call& call : meaning.calls) {
    std::string json = JsonOf(call);
    json.pop_back();
    calls.push_back(json + ", \"id\": \"Ab3dE5gH1\"}");
  }
  return absl::StrCat(meaning.text, "[TOOL_CALLS][", absl::StrJoin(calls, ", "), "]");
}

std::string WriteMistralArgs(const Meaning& meaning) {
  std::string out = Thought(meaning, "[THINK]", "[/THINK]") + meaning.text;
  for (const Call& call : meaning.calls) {
    absl::StrAppend(&out, "[TOOL_CALLS]", call.name, "[ARGS]", PythonJson(call.arguments));
  }
  return out;
}

std::string WriteMistralIds(const Meaning& meaning) {
  std::string out = meaning.text;
  for (const Call& call : meaning.calls) {
    absl::StrAppend(&out, "[TOOL_CALLS]", call.name, "[CALL_ID]Ab3dE5gH1[ARGS]",
                    PythonJson(call.arguments));
  }
  return out;
}

std::string WriteDeepSeek(const Meaning& meaning, bool in_code_blocks) {
  std::string out = Thought(meaning, "<think>\n", "\n</think>\n\n") + meaning.text;
  if (meaning.calls.empty()) return out;
  out += "<｜tool▁calls▁begin｜>";
  for (const Call& call : meaning.calls) {
    if (in_code_blocks && &call != meaning.calls.data()) out += "\n";
    absl::StrAppend(&out, "<｜tool▁call▁begin｜>", in_code_blocks ? "function" : call.name,
                    "<｜tool▁sep｜>", in_code_blocks ? call.name + "\n```json\n" : "",
                    PythonJson(call.arguments), in_code_blocks ? "\n```" : "",
                    "<｜tool▁call▁end｜>");
  }
  return out + "<｜tool▁calls▁end｜>";
}

std::string WriteDeepSeekR1(const Meaning& meaning) { return WriteDeepSeek(meaning, true); }

std::string WriteDeepSeekV31(const Meaning& meaning) { return WriteDeepSeek(meaning, false); }

std::string WriteDsml(const Meaning& meaning) {
  std::string out = Thought(meaning, "<think>", "</think>") + meaning.text;
  if (meaning.calls.empty()) return out;
  out += "\n\n<｜DSML｜function_calls>\n";
  for (const Call& call : meaning.calls) {
    absl::StrAppend(&out, "<｜DSML｜invoke name=\"", call.name, "\">\n");
    for (const auto& [key, value] : call.arguments.items()) {
      const bool is_string = value.is_string();
      absl::StrAppend(&out, "<｜DSML｜parameter name=\"", key, "\" string=\"",
                      is_string ? "true" : "false", "\">",
                      is_string ? value.get<std::string>() : PythonJson(value),
                      "</｜DSML｜parameter>\n");
    }
    out += "</｜DSML｜invoke>\n";
  }
  return out + "</｜DSML｜function_calls>";
}

std::string WriteMiniMax(const Meaning& meaning) {
  std::string out = Thought(meaning, "<think>\n", "\n</think>\n\n") + meaning.text;
  if (meaning.calls.empty()) return out;
  out += "\n<minimax:tool_call>\n";
  for (const Call& call : meaning.calls) {
    absl::StrAppend(&out, "<invoke name=\"", call.name, "\">\n");
    for (const auto& [key, value] : call.arguments.items()) {
      absl::StrAppend(&out, "<parameter name=\"", key, "\">",
                      value.is_string() ? value.get<std::string>() : PythonJson(value),
                      "</parameter>\n");
    }
    out += "</invoke>\n";
  }
  return out + "</minimax:tool_call>";
}

std::string WriteGranite(const Meaning& meaning) {
  std::string out = meaning.reasoning.empty() ? meaning.text
                                              : absl::StrCat("<think>", meaning.reasoning,
                                                             "</think>\n<response>", meaning.text);
  if (!meaning.reasoning.empty() && meaning.calls.empty()) out += "</response>";
  if (meaning.calls.empty()) return out;
  std::vector<std::string> calls;
  for (const Call& call : meaning.calls) calls.push_back(JsonOf(call));
  return absl::StrCat(out, "<|tool_call|>[", absl::StrJoin(calls, ", "), "]");
}

std::string WriteKimi(const Meaning& meaning) {
  std::string out = Thought(meaning, "<think>", "</think>") + meaning.text;
  if (meaning.calls.empty()) return out;
  out += "<|tool_calls_section_begin|>";
  for (size_t i = 0; i < meaning.calls.size(); ++i) {
    absl::StrAppend(&out, "<|tool_call_begin|>functions.", meaning.calls[i].name, ":", i,
                    "<|tool_call_argument_begin|>", PythonJson(meaning.calls[i].arguments),
                    "<|tool_call_end|>");
  }
  return out + "<|tool_calls_section_end|>";
}

std::string WriteGlm(const Meaning& meaning) {
  std::string out = Thought(meaning, "<think>", "</think>\n") + meaning.text;
  for (const Call& call : meaning.calls) {
    absl::StrAppend(&out, "\n<tool_call>", call.name, "\n");
    for (const auto& [key, value] : call.arguments.items()) {
      absl::StrAppend(&out, "<arg_key>", key, "</arg_key>\n<arg_value>",
                      value.is_string() ? value.get<std::string>() : PythonJson(value),
                      "</arg_value>\n");
    }
    out += "</tool_call>";
  }
  return out;
}

// The first "<|start|>assistant" is in the prompt; the last message's end ends the generation.
std::string WriteHarmony(const Meaning& meaning) {
  std::vector<std::string> messages;
  if (!meaning.reasoning.empty()) {
    messages.push_back("<|channel|>analysis<|message|>" + meaning.reasoning + "<|end|>");
  }
  if (!meaning.text.empty()) {
    const bool is_final = meaning.calls.empty();
    messages.push_back(absl::StrCat("<|channel|>", is_final ? "final" : "commentary", "<|message|>",
                                    meaning.text, is_final ? "" : "<|end|>"));
  }
  for (size_t i = 0; i < meaning.calls.size(); ++i) {
    const bool in_role = i % 2 == 0;  // both places are seen
    const std::string to = " to=functions." + meaning.calls[i].name;
    messages.push_back(absl::StrCat(in_role ? to : "", "<|channel|>commentary", in_role ? "" : to,
                                    " <|constrain|>json<|message|>",
                                    PythonJson(meaning.calls[i].arguments),
                                    i + 1 == meaning.calls.size() ? "" : "<|call|>"));
  }
  return absl::StrJoin(messages, "<|start|>assistant");
}

}  // namespace

std::string PythonJson(const Json& value) {
  std::vector<std::string> parts;
  if (value.is_object()) {
    for (const auto& [key, element] : value.items()) {
      parts.push_back(absl::StrCat(Json(key).dump(), ": ", PythonJson(element)));
    }
    return absl::StrCat("{", absl::StrJoin(parts, ", "), "}");
  }
  if (!value.is_array()) return value.dump();
  for (const Json& element : value) parts.push_back(PythonJson(element));
  return absl::StrCat("[", absl::StrJoin(parts, ", "), "]");
}

const std::vector<StyleUnderTest>& StylesUnderTest() {
  static const std::vector<StyleUnderTest> kStyles = {
      {"hermes", "<tool_call> </think>", WriteHermes},
      {"toolcall_list", "<TOOLCALL> </think>", WriteToolcallList},
      {"qwen3_coder", "<tool_call> <function= <parameter= </think>", WriteQwen3Coder},
      {"llama3", "<|python_tag|>", WriteLlama3, false, false},
      {"mistral_list", "[TOOL_CALLS]", WriteMistralList, false},
      {"mistral_args", "[TOOL_CALLS] [/THINK]", WriteMistralArgs},
      {"mistral_ids", "[TOOL_CALLS]", WriteMistralIds, false},
      {"deepseek_r1", "<｜tool▁sep｜> </think>", WriteDeepSeekR1},
      {"deepseek_v3_1", "<｜tool▁sep｜> </think>", WriteDeepSeekV31},
      {"deepseek_dsml", "｜DSML｜ invoke name= </think>", WriteDsml},
      {"minimax", "<minimax:tool_call> <invoke name= </think>", WriteMiniMax},
      {"granite", "<|tool_call|> <think></think> <response></response>", WriteGranite},
      {"kimi", "<|tool_call_argument_begin|> </think>", WriteKimi},
      {"glm", "<tool_call> <arg_key> </think>", WriteGlm},
      {"harmony", "<|channel|> <|message|>", WriteHarmony},
  };
  return kStyles;
}

std::vector<Transcript> TranscriptsOf(const StyleUnderTest& style) {
  std::vector<Transcript> out;
  for (Meaning& meaning : AllMeanings()) {
    if (!style.has_reasoning) meaning.reasoning.clear();
    if (!style.has_text_beside_calls && !meaning.calls.empty()) meaning.text.clear();
    if (!style.has_several_calls && meaning.calls.size() > 1) meaning.calls.resize(1);
    out.push_back({style.write(meaning), meaning});
  }
  return out;
}

std::shared_ptr<const ToolSet> TestTools() {
  auto tools = std::make_shared<ToolSet>();
  tools->Add("get_weather", R"({"type": "object", "properties": {"city": {"type": "string"}}})");
  tools->Add("now", "");
  tools->Add("add", R"({"type": "object", "properties": {"a": {"type": "integer"},
                                                         "b": {"type": "number"}}})");
  tools->Add("write_file", R"({"type": "object", "properties": {"path": {"type": "string"},
                                                                "text": {"type": "string"}}})");
  tools->Add("search", R"({"type": "object", "properties": {
                 "query": {"type": "string"}, "exact": {"type": "boolean"},
                 "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                 "max-items": {"enum": [1, 2, 3]}, "filter": {"$ref": "#/$defs/filter"},
                 "tags": {"type": ["array", "null"]}},
                 "$defs": {"filter": {"type": "object"}}})");
  tools->Add("db.query-2", R"({"type": "object", "properties": {"sql": {"type": "string"}}})");
  return tools;
}

AnswerFormat FormatOf(const StyleUnderTest& style, Marks marks) {
  return {style.template_source, /*with_calls=*/true,
          [marks](const std::string&) { return marks == Marks::kTokens; }};
}

std::string Encoded(const std::string& written, const AnswerFormat& format) {
  std::vector<std::pair<std::string, std::string>> tokens;
  for (const Mark& mark : format.marks()) {
    if (mark.is_special_token) tokens.emplace_back(mark.spelling, format.TextOf(mark.spelling));
  }
  return absl::StrReplaceAll(written, tokens);
}

Events Parse(const AnswerFormat& format, const std::vector<std::string>& pieces) {
  AnswerParser parser(format, TestTools(), {.id_seed = 17});
  Events events;
  const auto add = [&events](AnswerPiece piece) {
    events.reasoning += piece.reasoning;
    events.text += piece.text;
    AppendToolCalls(std::move(piece.tool_calls), events.calls);
  };
  for (const std::string& piece : pieces) add(parser.Put(piece));
  add(parser.Finish());
  events.complete_calls = parser.complete_calls();
  return events;
}

}  // namespace modeld
