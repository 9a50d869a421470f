#include "server/engine/engine_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "server/wire/status_wire.h"
#include "tests/engine/serve/engine_process.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using modeld::engine::v1::LoadResponse;

TEST(EngineServiceTest, LoadTellsItsPhasesAndIsReadyAtTheEnd) {
  EngineProcess engine;

  const EngineProcess::LoadResult load = engine.Load("tiny-llama");

  ASSERT_THAT(load.status, IsOk());
  ASSERT_FALSE(load.messages.empty());
  int phase = 0;
  for (const LoadResponse& message : load.messages) {
    EXPECT_GE(message.phase(), phase);
    phase = message.phase();
  }
  const LoadResponse& last = load.messages.back();
  EXPECT_EQ(last.phase(), LoadResponse::PHASE_READY);
  EXPECT_EQ(last.ready().max_context(), 2048);
  EXPECT_GT(last.ready().sequences_max(), 0);
  ASSERT_EQ(last.ready().devices_size(), 1);
  EXPECT_EQ(last.ready().devices(0).device(), "cpu");
  EXPECT_GT(last.ready().devices(0).weights_bytes(), 0);
  EXPECT_GT(last.ready().devices(0).kv_cache_bytes(), 0);
}

TEST(EngineServiceTest, ASecondLoadIsRefused) {
  EngineProcess engine;
  ASSERT_THAT(engine.Load("tiny-llama").status, IsOk());

  EXPECT_THAT(engine.Load("tiny-qwen3").status, HasReasonOf(Reason::kModelInUse));
}

TEST(EngineServiceTest, AFailedLoadSaysWhyAndAnotherMayFollow) {
  EngineProcess engine;

  EXPECT_THAT(engine.Load("no-such-model").status, HasReasonOf(Reason::kInvalidRepository));

  EXPECT_THAT(engine.Load("tiny-llama").status, IsOk());
}

TEST(EngineServiceTest, StatsComeAtOnceAndThenAgain) {
  EngineProcess engine;
  ASSERT_THAT(engine.Load("tiny-llama").status, IsOk());
  grpc::ClientContext context;
  const auto reader = engine.engine().Stats(&context, {});
  modeld::engine::v1::StatsResponse first;
  modeld::engine::v1::StatsResponse second;

  ASSERT_TRUE(reader->Read(&first));
  modeld::v1::GenerateRequest request;
  request.add_token_ids(73);
  request.mutable_sampling()->set_max_tokens(4);
  request.mutable_sampling()->set_ignore_eos(true);
  ASSERT_THAT(engine.Generate(request).status, IsOk());
  ASSERT_TRUE(reader->Read(&second));

  EXPECT_EQ(first.generated_tokens_total(), 0);
  EXPECT_EQ(second.generated_tokens_total(), 4);
  EXPECT_EQ(second.prompt_tokens_total(), 1);
  EXPECT_EQ(second.steps_total(), 4);
  ASSERT_EQ(second.finished_size(), 1);
  EXPECT_EQ(second.finished(0).method(), "Generate");
  EXPECT_EQ(second.finished(0).finish_reason(), "length");
  EXPECT_EQ(second.time_to_first_token().counts_size(),
            second.time_to_first_token().bounds_size() + 1);
  EXPECT_EQ(second.devices_size(), 1);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(EngineServiceTest, AfterDrainRequestsAreRefused) {
  EngineProcess engine;
  ASSERT_THAT(engine.Load("tiny-llama").status, IsOk());
  grpc::ClientContext context;
  modeld::engine::v1::DrainRequest drain;
  modeld::engine::v1::DrainResponse response;

  ASSERT_TRUE(engine.engine().Drain(&context, drain, &response).ok());

  EXPECT_EQ(response.cut_off(), 0);
  modeld::v1::GenerateRequest request;
  request.add_token_ids(73);
  EXPECT_THAT(engine.Generate(request).status, HasReasonOf(Reason::kModelNotReady));
}

TEST(EngineServiceTest, DrainCutsOffARunningAnswerWhichEndsAsCancelled) {
  EngineProcess engine;
  ASSERT_THAT(engine.Load("tiny-llama").status, IsOk());
  modeld::v1::GenerateRequest request;
  request.add_token_ids(73);
  request.mutable_sampling()->set_ignore_eos(true);
  grpc::ClientContext stream_context;
  const auto stream = engine.inference().Generate(&stream_context, request);
  modeld::v1::GenerateResponse message;
  ASSERT_TRUE(stream->Read(&message));

  grpc::ClientContext context;
  modeld::engine::v1::DrainResponse response;
  ASSERT_TRUE(engine.engine().Drain(&context, {}, &response).ok());
  while (stream->Read(&message)) {
  }

  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(message.finish_reason(), response.cut_off() == 1 ? modeld::v1::FINISH_REASON_CANCELLED
                                                             : modeld::v1::FINISH_REASON_LENGTH);
}

}  // namespace
}  // namespace modeld
