#include "client/device_map_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "server/base/file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

class DeviceMapFileTest : public testing::Test {
 protected:
  auto Read(const std::string& text) {
    EXPECT_THAT(WriteFileAtomically(path_, text), IsOk());
    return ReadDeviceMapFile(path_);
  }

  TempDir dir_;
  const std::string path_ = dir_.path() + "/map.json";
};

TEST_F(DeviceMapFileTest, NamesAndNumbersOfDevicesAreRead) {
  const auto entries = Read(R"({"model.layers.0": 1, "lm_head": "cpu", "": "cuda:0"})");

  ASSERT_THAT(entries, IsOk());
  EXPECT_THAT(*entries, ElementsAre(Pair("", "cuda:0"), Pair("lm_head", "cpu"),
                                    Pair("model.layers.0", "cuda:1")));
}

TEST_F(DeviceMapFileTest, WhatIsNoMapIsRefused) {
  for (const char* text :
       {"", "[1]", "{}", "{\"a\": ", R"({"a": -1})", R"({"a": 1.5})", R"({"a": {"b": "cpu"}})"}) {
    const auto entries = Read(text);
    EXPECT_TRUE(absl::IsInvalidArgument(entries.status())) << text;
    EXPECT_THAT(std::string(entries.status().message()), HasSubstr(path_)) << text;
  }
}

TEST_F(DeviceMapFileTest, AFileThatIsNotThereIsAnError) {
  EXPECT_TRUE(absl::IsNotFound(ReadDeviceMapFile(path_).status()));
}

}  // namespace
}  // namespace modeld
