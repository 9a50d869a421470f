#include "server/store/columns.h"

#include <gtest/gtest.h>

#include <string>

namespace modeld {
namespace {

using std::string_literals::operator""s;

TEST(ColumnsTest, TextWithNulIsRefusedRatherThanCut) {
  EXPECT_EQ(Text("plain"), "plain");
  EXPECT_THROW(Text("a\0b"s), pqxx::argument_error);
}

TEST(ColumnsTest, EscapedNulIsReplacedAndEscapedBackslashIsNot) {
  EXPECT_EQ(JsonbText(R"({"a":"x\u0000y"})"), R"({"a":"x\ufffdy"})");
  EXPECT_EQ(JsonbText(R"({"a":"x\\u0000y"})"), R"({"a":"x\\u0000y"})");
  EXPECT_EQ(JsonbText("\\"), "\\");
}

TEST(ColumnsTest, OperationSpecComesBackAsItWas) {
  OperationSpec spec;
  spec.revision = "v1.0";
  spec.load = {.dtype = "float32", .device_map = "", .device_map_entries = {{"model", "cuda:1"}}};
  spec.load.max_context = 4096;
  spec.pinned = true;
  spec.filter = FileFilter{.allow_patterns = {"*.json"}, .ignore_patterns = {"a\"b", "*.bin"}};

  const OperationSpec back = OperationSpecFromJson(OperationSpecJson(spec));

  EXPECT_EQ(back.revision, spec.revision);
  EXPECT_EQ(back.load, spec.load);
  EXPECT_EQ(back.pinned, spec.pinned);
  EXPECT_EQ(back.filter, spec.filter);
  EXPECT_FALSE(OperationSpecFromJson(OperationSpecJson({})).filter.has_value());
}

// Other programs may write to the columns.
TEST(ColumnsTest, StrangeJsonGivesDefaults) {
  EXPECT_EQ(LoadSpecFromJson("[]"), LoadSpec());
  EXPECT_EQ(LoadSpecFromJson(R"({"dtype":7})"), LoadSpec());
  EXPECT_TRUE(PatternsFromJson("{").empty());
  EXPECT_TRUE(FilesFromJson("3").empty());
  EXPECT_TRUE(DevicesFromJson("null").empty());
}

}  // namespace
}  // namespace modeld
