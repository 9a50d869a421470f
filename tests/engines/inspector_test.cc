#include "server/engines/inspector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using testing::HasSubstr;

InspectorOptions FakeInspector() { return {.program = MODELD_FAKE_ENGINE}; }

std::string Request(const nlohmann::json& config) {
  return nlohmann::json{{"config", config.dump()},
                        {"files", {{{"path", "model.safetensors"}, {"size_bytes", 1000}}}}}
      .dump();
}

TEST(InspectorTest, AnswerOfTheChildIsTheInspection) {
  const auto inspection = RunInspector(
      FakeInspector(), Request({{"model_type", "llama"}, {"max_position_embeddings", 99}}), {});

  ASSERT_THAT(inspection, IsOk());
  EXPECT_TRUE(inspection->supported);
  EXPECT_EQ(inspection->max_context, 99);
  EXPECT_EQ(inspection->weights_bytes.at("float32"), 2000);
}

TEST(InspectorTest, UnsupportedArchitectureIsAnAnswer) {
  const auto inspection = RunInspector(FakeInspector(), Request({{"model_type", "rwkv"}}), {});

  ASSERT_THAT(inspection, IsOk());
  EXPECT_THAT(inspection->Supported(), HasReasonOf(Reason::kUnsupportedArchitecture));
}

TEST(InspectorTest, RequestsLargerThanASocketBufferArrive) {
  nlohmann::json config{{"model_type", "llama"}, {"padding", std::string(3'000'000, 'x')}};

  EXPECT_THAT(RunInspector(FakeInspector(), Request(config), {}), IsOk());
}

TEST(InspectorTest, CrashIsAnInvalidRepositoryWithTheLastWords) {
  const auto inspection = RunInspector(FakeInspector(), Request({{"fake_inspect", "crash"}}), {});

  ASSERT_THAT(inspection, HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(inspection.status().message(), HasSubstr("signal 6"));
  EXPECT_THAT(inspection.status().message(), HasSubstr("told to crash"));
}

TEST(InspectorTest, SilenceEndsAtTheTimeLimit) {
  InspectorOptions options = FakeInspector();
  options.timeout = std::chrono::milliseconds(50);

  const auto inspection = RunInspector(options, Request({{"fake_inspect", "hang"}}), {});

  ASSERT_THAT(inspection, HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(inspection.status().message(), HasSubstr("no answer within 50 ms"));
}

TEST(InspectorTest, FloodEndsAtTheOutputLimit) {
  InspectorOptions options = FakeInspector();
  options.output_bytes_max = 1'000'000;

  const auto inspection = RunInspector(options, Request({{"fake_inspect", "flood"}}), {});

  ASSERT_THAT(inspection, HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(inspection.status().message(), HasSubstr("more than 1.0 MB"));
}

TEST(InspectorTest, GarbageIsAnInvalidRepository) {
  EXPECT_THAT(RunInspector(FakeInspector(), Request({{"fake_inspect", "garbage"}}), {}),
              HasReasonOf(Reason::kInvalidRepository));
}

TEST(InspectorTest, StopKillsTheChild) {
  std::stop_source stop;
  std::jthread stopper([&] { stop.request_stop(); });

  EXPECT_THAT(RunInspector(FakeInspector(), Request({{"fake_inspect", "hang"}}), stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled));
}

TEST(InspectorTest, MissingProgramIsNamed) {
  const auto inspection = RunInspector({.program = "/no/engine"}, "{}", {});

  EXPECT_THAT(inspection.status().message(), HasSubstr("/no/engine"));
}

}  // namespace
}  // namespace modeld
