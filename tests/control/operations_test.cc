#include "server/control/operations.h"

#include <string>
#include <vector>

#include "tests/control/control_fixture.h"

namespace modeld {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Without a loader, so that operations stay PENDING.
class OperationsTest : public ControlTest {
 protected:
  void SetUp() override {
    DaemonOptions options = Options();
    options.with_loader = false;
    Start(options);
    AddRepo("org/m");
    Register("m", "org/m");
  }
  Operations& operations() { return daemon().operations; }
};

TEST_F(OperationsTest, TheSameLoadIsOneOperation) {
  const auto first = operations().Load({.model_name = "m"});
  const auto second = operations().Load({.model_name = "m", .spec = {.dtype = "bfloat16"}});

  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(first->name, second->name);
  EXPECT_EQ(first->state, OperationState::kPending);
}

TEST_F(OperationsTest, EmptySettingsAreTheDefaults) {
  const auto first =
      operations().Load({.model_name = "m", .spec = {.dtype = "", .device_map = ""}});

  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(first->spec.load, LoadSpec());
}

TEST_F(OperationsTest, AnotherLoadOfTheModelIsRefusedWhileOneRuns) {
  const auto first = operations().Load({.model_name = "m"});
  ASSERT_THAT(first, IsOk());

  const auto second = operations().Load({.model_name = "m", .spec = {.dtype = "float32"}});

  EXPECT_THAT(second, HasReasonOf(Reason::kOperationInProgress));
  EXPECT_EQ(DetailsOf(second.status()).metadata["operation"], first->name);
}

TEST_F(OperationsTest, ACancelledLoadMakesRoomForAnother) {
  const auto first = operations().Load({.model_name = "m"});
  ASSERT_THAT(operations().Cancel(first->name), IsOk());

  const auto second = operations().Load({.model_name = "m", .spec = {.dtype = "float32"}});

  ASSERT_THAT(second, IsOk());
  EXPECT_NE(second->name, first->name);
  EXPECT_EQ(operations().Get(first->name)->state, OperationState::kCancelled);
}

TEST_F(OperationsTest, TheSameDownloadIsOneOperationAndAnotherIsRefused) {
  const auto first = operations().Download({.model_name = "m"});
  const auto same = operations().Download({.model_name = "m", .revision = "main"});
  const auto other = operations().Download({.model_name = "m", .revision = "v2"});

  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(same, IsOk());
  EXPECT_EQ(first->name, same->name);
  EXPECT_THAT(other, HasReasonOf(Reason::kOperationInProgress));
}

TEST_F(OperationsTest, BadRequestsNameTheirField) {
  EXPECT_THAT(operations().Load({.model_name = ""}), NamesField("model_name"));
  EXPECT_THAT(operations().Load({.model_name = "m", .revision = "a b"}), NamesField("revision"));
  EXPECT_THAT(operations().Load({.model_name = "m", .spec = {.dtype = "int8"}}),
              NamesField("dtype"));
  EXPECT_THAT(operations().Load({.model_name = "m", .spec = {.device_map = "tpu"}}),
              NamesField("device_map"));
  EXPECT_THAT(operations().Load({.model_name = "m", .spec = {.max_context = -1}}),
              NamesField("max_context"));
  EXPECT_THAT(operations().Download({.model_name = "m", .priority = 1'001}),
              NamesField("priority"));
  EXPECT_THAT(operations().Load({.model_name = "none"}), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(operations().Download({.model_name = "none"}), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(operations().Unload("none"), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(operations().Get("none"), HasReasonOf(Reason::kOperationNotFound));
  EXPECT_THAT(operations().Get(""), NamesField("name"));
}

TEST_F(OperationsTest, WhatIsKnownToBeUnsupportedIsRefusedAtOnce) {
  hub_.AddFile("org/odd", "config.json", R"({"model_type":"mamba9"})");
  hub_.AddFile("org/code", "config.json",
               R"({"model_type":"own","auto_map":{"AutoModel":"own.Model"}})");
  Register("odd", "org/odd");
  Register("code", "org/code");

  EXPECT_THAT(operations().Load({.model_name = "odd"}),
              HasReasonOf(Reason::kUnsupportedArchitecture));
  EXPECT_THAT(operations().Load({.model_name = "code"}),
              HasReasonOf(Reason::kRemoteCodeNotTrusted));
  EXPECT_THAT(operations().List("odd", 0, "")->operations, IsEmpty());
}

TEST_F(OperationsTest, WhatFitsNoDeviceIsRefusedAtOnceWithBothFigures) {
  hub_.AddFile("org/big", "config.json",
               R"({"model_type":"llama","fake_inspection":{"weights_bytes":
                  {"bfloat16":9000000000000,"float16":9000000000000,"float32":9000000000000}}})");
  hub_.AddFile("org/big", "model.safetensors", "weights");
  Register("big", "org/big");

  const auto load = operations().Load({.model_name = "big"});

  EXPECT_THAT(load, HasReasonOf(Reason::kInsufficientDeviceMemory));
  EXPECT_TRUE(DetailsOf(load.status()).metadata.contains("required_bytes"));
}

TEST_F(OperationsTest, AnUnloadedModelCannotBeUnloaded) {
  EXPECT_THAT(operations().Unload("m"), HasReasonOf(Reason::kModelNotReady));
}

TEST_F(OperationsTest, AnUnloadEndsALoadThatHasNotBegun) {
  const auto load = operations().Load({.model_name = "m"});

  const auto unload = operations().Unload("m");

  ASSERT_THAT(unload, IsOk());
  EXPECT_EQ(unload->kind, OperationKind::kUnload);
  EXPECT_EQ(operations().Get(load->name)->state, OperationState::kCancelled);
}

TEST_F(OperationsTest, OnlyWhatIsActiveIsCancelledPausedOrResumed) {
  const auto download = operations().Download({.model_name = "m"});

  EXPECT_THAT(operations().Resume(download->name), HasReasonOf(Reason::kOperationNotActive));
  EXPECT_EQ(operations().Pause(download->name)->state, OperationState::kPaused);
  EXPECT_EQ(operations().Resume(download->name)->state, OperationState::kPending);
  EXPECT_EQ(operations().Cancel(download->name)->state, OperationState::kCancelled);
  EXPECT_THAT(operations().Cancel(download->name), HasReasonOf(Reason::kOperationNotActive));
  EXPECT_THAT(operations().Pause(download->name), HasReasonOf(Reason::kOperationNotActive));
  EXPECT_THAT(operations().Cancel("none"), HasReasonOf(Reason::kOperationNotFound));
}

TEST_F(OperationsTest, LimitsThatMakeNoSenseAreRefused) {
  const auto download = operations().Download({.model_name = "m"});
  ASSERT_THAT(download, IsOk());
  const std::string& name = download->name;

  EXPECT_THAT(operations().SetLimits({.bytes_per_second = -1}), NamesField("bytes_per_second"));
  EXPECT_THAT(operations().SetLimits({.connections = -1}), NamesField("connections"));
  EXPECT_THAT(operations().SetLimits({.connections_per_host = -1}),
              NamesField("connections_per_host"));
  EXPECT_THAT(operations().SetLimits({.operation = name, .connections = 1}),
              NamesField("connections"));
  EXPECT_THAT(operations().SetLimits({.operation = "none", .bytes_per_second = 1}),
              HasReasonOf(Reason::kOperationNotFound));
  EXPECT_THAT(operations().Limits("none"), HasReasonOf(Reason::kOperationNotFound));
  EXPECT_THAT(operations().Download({.model_name = "m", .bytes_per_second_max = -1}),
              NamesField("bytes_per_second_max"));
  EXPECT_EQ(operations().SetLimits({.operation = name})->bytes_per_second, 0);
}

TEST_F(OperationsTest, FilesWithTheSameContentAreFetchedOnce) {
  hub_.AddFile("org/twice", "a.safetensors", TestBytes(50'000, 4));
  hub_.AddFile("org/twice", "b.safetensors", TestBytes(50'000, 4));
  Register("twice", "org/twice");

  const auto plan = operations().Plan({.model_name = "twice"}, {});

  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(plan->fetch_bytes, 50'000);
  EXPECT_EQ(plan->present_bytes, 0);
}

TEST_F(OperationsTest, APlanOfASubsetHasOnlyItsFilesAndMakesNoFolder) {
  const auto plan =
      operations().Plan({.model_name = "m", .filter = {.allow_patterns = {"*.json"}}}, {});

  ASSERT_THAT(plan, IsOk());
  ASSERT_THAT(plan->files, testing::SizeIs(1));
  EXPECT_EQ(plan->files.front().path, "config.json");
  EXPECT_EQ(plan->fetch_bytes, plan->files.front().size_bytes);
  EXPECT_FALSE(std::filesystem::exists(cache()));
}

TEST_F(OperationsTest, PagesHoldEveryOperationOnceNewestFirst) {
  std::vector<std::string> expected;
  for (int i = 0; i < 5; ++i) {
    const auto operation = operations().Download({.model_name = "m"});
    ASSERT_THAT(operation, IsOk());
    ASSERT_THAT(operations().Cancel(operation->name), IsOk());
    expected.insert(expected.begin(), operation->name);
  }

  std::vector<std::string> names;
  std::string token;
  do {
    const auto page = operations().List("m", 2, token);
    ASSERT_THAT(page, IsOk());
    for (const Operation& operation : page->operations) names.push_back(operation.name);
    token = page->next_page_token;
    if (!token.empty()) {
      EXPECT_THAT(operations().List("", 2, token), NamesField("page_token"));
    }
  } while (!token.empty());

  EXPECT_EQ(names, expected);
}

TEST_F(OperationsTest, AWaitEndsAtItsTimeoutOrWhenItIsStopped) {
  const auto operation = operations().Download({.model_name = "m"});

  const auto timed_out = operations().Wait(operation->name, std::chrono::milliseconds(50), {});
  std::stop_source stop;
  stop.request_stop();
  const auto stopped = operations().Wait(operation->name, kLong, stop.get_token());

  EXPECT_EQ(timed_out->state, OperationState::kPending);
  EXPECT_EQ(stopped->state, OperationState::kPending);
  EXPECT_THAT(operations().Wait("none", kLong, {}), HasReasonOf(Reason::kOperationNotFound));
}

TEST_F(OperationsTest, APlanSaysWhatWouldBeFetchedAndChangesNothing) {
  const auto plan = operations().Plan({.model_name = "m"}, {});

  ASSERT_THAT(plan, IsOk());
  std::vector<std::string> paths;
  int64_t bytes = 0;
  for (const FileProgress& file : plan->files) {
    paths.push_back(file.path);
    bytes += file.size_bytes;
    EXPECT_EQ(file.state, FileState::kPending);
  }
  EXPECT_THAT(paths, ElementsAre("config.json", "model.safetensors"));
  EXPECT_EQ(plan->fetch_bytes, bytes);
  EXPECT_EQ(plan->present_bytes, 0);
  EXPECT_TRUE(plan->inspection->supported);
  EXPECT_THAT(operations().List("", 0, "")->operations, IsEmpty());
}

}  // namespace
}  // namespace modeld
