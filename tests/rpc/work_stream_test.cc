#include "server/rpc/work_stream.h"

#include <grpcpp/client_context.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <latch>
#include <memory>
#include <string>
#include <utility>

#include "modeld/v1/registry.grpc.pb.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using Stream = WorkStream<v1::VerifyModelResponse>;

class WorkingRegistry final : public v1::Registry::CallbackService {
 public:
  explicit WorkingRegistry(Calls& calls) : calls_(calls) {}

  grpc::ServerWriteReactor<v1::VerifyModelResponse>* VerifyModel(
      grpc::CallbackServerContext* /*context*/,
      const v1::VerifyModelRequest* /*request*/) override {
    return new Stream(calls_, "modeld.v1.Registry/VerifyModel", work);
  }

  Stream::Work work;

 private:
  Calls& calls_;
};

class WorkStreamTest : public testing::Test {
 protected:
  WorkStreamTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = v1::Registry::NewStub(server_->InProcessChannel({}));
  }
  ~WorkStreamTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  Metrics metrics_;
  // Of the test that waits for it; older than the threads that count it down.
  std::latch stopped_{1};
  Executor executor_{{.threads = 2}};
  Calls calls_{executor_, metrics_};
  WorkingRegistry service_{calls_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Registry::Stub> stub_;
};

TEST_F(WorkStreamTest, EveryMessageArrivesInOrderThoughThereAreMoreThanMayWait) {
  constexpr int kMessages = 2'000;
  service_.work = [](const Stream::Emit& emit, std::stop_token) {
    for (int i = 0; i < kMessages; ++i) {
      v1::VerifyModelResponse message;
      message.set_bytes_done(i);
      emit(message);
    }
    return absl::OkStatus();
  };
  grpc::ClientContext context;
  const auto reader = stub_->VerifyModel(&context, {});

  int64_t next = 0;
  v1::VerifyModelResponse message;
  while (reader->Read(&message)) EXPECT_EQ(message.bytes_done(), next++);

  EXPECT_EQ(next, kMessages);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(WorkStreamTest, TheErrorOfTheWorkEndsTheStreamAfterWhatItTold) {
  service_.work = [](const Stream::Emit& emit, std::stop_token) {
    emit({});
    return ModelNotFound("m");
  };
  grpc::ClientContext context;
  const auto reader = stub_->VerifyModel(&context, {});

  v1::VerifyModelResponse message;
  EXPECT_TRUE(reader->Read(&message));
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_THAT(FromGrpcStatus(reader->Finish()), HasReasonOf(Reason::kModelNotFound));
}

TEST_F(WorkStreamTest, AClientThatGoesStopsTheWorkEvenWhileItWaitsForTheClient) {
  service_.work = [&](const Stream::Emit& emit, std::stop_token stop) {
    v1::VerifyModelResponse large;
    large.set_path(std::string(1 << 20, 'x'));
    while (!stop.stop_requested()) emit(large);
    stopped_.count_down();
    return absl::OkStatus();
  };
  grpc::ClientContext context;
  const auto reader = stub_->VerifyModel(&context, {});
  v1::VerifyModelResponse message;
  ASSERT_TRUE(reader->Read(&message));

  context.TryCancel();
  stopped_.wait();

  while (reader->Read(&message)) continue;
  EXPECT_THAT(FromGrpcStatus(reader->Finish()), StatusIs(absl::StatusCode::kCancelled));
}

}  // namespace
}  // namespace modeld
