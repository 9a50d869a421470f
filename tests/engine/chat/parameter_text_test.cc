#include "server/engine/chat/parameter_text.h"

#include <gtest/gtest.h>

#include <string>

namespace modeld {
namespace {

TEST(ParameterTextTest, AValueIsOfTheKindThatTheSchemaAllows) {
  const auto json = [](std::string_view text, ParameterTypes types) {
    return JsonOfText(text, types);
  };
  EXPECT_EQ(json("42", {.integer = true}), "42");
  EXPECT_EQ(json("42", {.string = true}), "\"42\"");
  EXPECT_EQ(json(" 42\n", {.number = true}), "42");
  EXPECT_EQ(json("4.5", {.integer = true}), "\"4.5\"");
  EXPECT_EQ(json("True", {.boolean = true}), "true");
  EXPECT_EQ(json("false", {.boolean = true}), "false");
  EXPECT_EQ(json("None", {.string = true, .null = true}), "null");
  EXPECT_EQ(json("none of it", {.string = true, .null = true}), "\"none of it\"");
  EXPECT_EQ(json("[1, {\"a\": 2}]", {.array = true}), "[1, {\"a\": 2}]");
  EXPECT_EQ(json("[1, 2]", {.object = true}), "\"[1, 2]\"");
  EXPECT_EQ(json("[1,", {.array = true}), "\"[1,\"");
  EXPECT_EQ(json("\"quoted\"", {.string = true, .array = true}), R"("\"quoted\"")");
  EXPECT_EQ(json("", {.integer = true}), "\"\"");
}

TEST(ParameterTextTest, LineFeedsAtBothEndsAreTheTemplatesOwn) {
  const auto written = [](std::string_view text, bool trims) {
    ParameterText value(ParameterTypes::Text(), trims);
    std::string json;
    for (const char c : text) json += value.Put(c);
    return json + value.End();
  };
  EXPECT_EQ(written("\na\nb\n", true), R"("a\nb")");
  EXPECT_EQ(written("\n\na\n\n", true), R"("\na\n")");
  EXPECT_EQ(written("\n\n", true), R"("")");
  EXPECT_EQ(written("a", true), R"("a")");
  EXPECT_EQ(written("", true), R"("")");
  EXPECT_EQ(written("\na\n", false), R"("\na\n")");
}

TEST(ToolSetTest, TypesAreThoseOfTheSchema) {
  ToolSet tools;
  tools.Add("f", R"({"properties": {
      "a": {"type": "string"}, "b": {"type": ["integer", "null"]}, "c": {"enum": ["x", 1]},
      "d": {"$ref": "#/$defs/d"}, "e": {"anyOf": [{"type": "boolean"}, {"const": 1.5}]}, "g": {},
      "h": {"items": {}}, "i": {"$ref": "#/$defs/loop"}, "j": {"$ref": "other.json"},
      "k": {"$ref": "#not a pointer"}},
      "$defs": {"d": {"properties": {}}, "loop": {"$ref": "#/$defs/loop"}}})");
  tools.Add("none", "{not json");

  EXPECT_EQ(tools.TypesOf("f", "a"), ParameterTypes::Text());
  EXPECT_EQ(tools.TypesOf("f", "b"), (ParameterTypes{.null = true, .integer = true}));
  EXPECT_EQ(tools.TypesOf("f", "c"), (ParameterTypes{.string = true, .integer = true}));
  EXPECT_EQ(tools.TypesOf("f", "d"), (ParameterTypes{.object = true}));
  EXPECT_EQ(tools.TypesOf("f", "e"), (ParameterTypes{.boolean = true, .number = true}));
  EXPECT_EQ(tools.TypesOf("f", "h"), (ParameterTypes{.array = true}));
  for (const char* name : {"g", "i", "j", "k", "not there"}) {
    EXPECT_EQ(tools.TypesOf("f", name), ParameterTypes::Text()) << name;
  }
  EXPECT_EQ(tools.TypesOf("none", "a"), ParameterTypes::Text());
  EXPECT_TRUE(tools.HasPrefix("no"));
  EXPECT_FALSE(tools.HasPrefix("nope"));
}

}  // namespace
}  // namespace modeld
