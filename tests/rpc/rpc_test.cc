#include <grpcpp/client_context.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <memory>
#include <string>
#include <thread>

#include "modeld/v1/inference.pb.h"
#include "modeld/v1/registry.grpc.pb.h"
#include "server/control/changes.h"
#include "server/rpc/calls.h"
#include "server/rpc/health_service.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/watch.h"
#include "server/wire/status_wire.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

grpc::ByteBuffer BytesOf(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

TEST(ModelNameTest, IsFoundWhereverItStandsInTheRequest) {
  v1::GenerateRequest request;
  request.set_prompt(std::string(100'000, 'x'));
  request.set_model_name("m");
  v1::GenerateRequest first;
  first.set_prompt("before");
  v1::GenerateRequest last;
  last.set_model_name("late");

  EXPECT_EQ(*ModelNameOf(BytesOf(request.SerializeAsString())), "m");
  EXPECT_EQ(*ModelNameOf(BytesOf(first.SerializeAsString() + last.SerializeAsString())), "late");
  EXPECT_THAT(ModelNameOf(BytesOf("")), NamesField("model_name"));
  EXPECT_THAT(ModelNameOf(BytesOf("\x0a\xff")), NamesField("model_name"));
}

// A server with one service, reached in process.
template <typename Service>
class OneService {
 public:
  template <typename... Args>
  explicit OneService(Args&&... args) : service(std::forward<Args>(args)...) {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service);
    server = builder.BuildAndStart();
    channel = server->InProcessChannel({});
  }
  ~OneService() { server->Shutdown(std::chrono::system_clock::now()); }

  Service service;
  std::unique_ptr<grpc::Server> server;
  std::shared_ptr<grpc::Channel> channel;
};

TEST(HealthServiceTest, CheckTellsEachServiceAndRefusesUnknownOnes) {
  OneService<HealthService> one(std::set<std::string>{"modeld.v1.Registry"});
  const auto stub = grpc::health::v1::Health::NewStub(one.channel);
  const auto check = [&](const std::string& service, HealthCheckResponse* response) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(service);
    return FromGrpcStatus(stub->Check(&context, request, response));
  };
  HealthCheckResponse response;

  ASSERT_THAT(check("", &response), IsOk());
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  one.service.SetAllServing(true);
  ASSERT_THAT(check("modeld.v1.Registry", &response), IsOk());
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  EXPECT_THAT(check("no.such.Service", &response), StatusIs(absl::StatusCode::kNotFound));
}

TEST(HealthServiceTest, WatchSaysTheStateThenEachChangeThenEndsWithTheServer) {
  OneService<HealthService> one(std::set<std::string>{"s"});
  const auto stub = grpc::health::v1::Health::NewStub(one.channel);
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("s");
  const auto reader = stub->Watch(&context, request);
  HealthCheckResponse response;

  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  one.service.SetServing("s", true);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  one.service.Shutdown();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST(HealthServiceTest, WatchOfAnUnknownServiceStaysOpenAndSaysSo) {
  OneService<HealthService> one(std::set<std::string>{});
  const auto stub = grpc::health::v1::Health::NewStub(one.channel);
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("later");
  const auto reader = stub->Watch(&context, request);
  HealthCheckResponse response;

  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  context.TryCancel();
  EXPECT_FALSE(reader->Read(&response));
}

// A Registry whose WatchModels shows a counter that the test moves.
class CountingRegistry final : public v1::Registry::CallbackService {
 public:
  CountingRegistry(Calls& calls, Changes& changes) : calls_(calls), changes_(changes) {}

  grpc::ServerWriteReactor<v1::WatchModelsResponse>* WatchModels(
      grpc::CallbackServerContext* /*context*/,
      const v1::WatchModelsRequest* /*request*/) override {
    return new WatchStream<v1::WatchModelsResponse>(
        calls_, changes_,
        {.method = "modeld.v1.Registry/WatchModels",
         .topic = "model:",
         .pause = std::chrono::milliseconds(1)},
        [this]() -> absl::StatusOr<Look<v1::WatchModelsResponse>> {
          const int now = count;
          if (now < 0) return ModelNotFound("gone");
          Look<v1::WatchModelsResponse> look;
          look.messages.emplace_back().mutable_model()->set_id(now);
          look.last = now >= last;
          return look;
        });
  }
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override {
    return calls_.Answer(context, "modeld.v1.Registry/GetModel", [request, response] {
      response->set_model_name(request->model_name());
      return request->model_name().empty() ? InvalidField("model_name", "is empty")
                                           : absl::OkStatus();
    });
  }

  std::atomic<int> count = 0;
  std::atomic<int> last = 1000;

 private:
  Calls& calls_;
  Changes& changes_;
};

class WatchStreamTest : public testing::Test {
 protected:
  Metrics metrics_;
  Changes changes_;
  Executor executor_{{.threads = 2}};
  Calls calls_{executor_, metrics_};
  OneService<CountingRegistry> one_{calls_, changes_};
  std::unique_ptr<v1::Registry::Stub> stub_ = v1::Registry::NewStub(one_.channel);
};

TEST_F(WatchStreamTest, EveryChangeIsSeenAndTheLastMessageEndsTheStream) {
  grpc::ClientContext context;
  const auto reader = stub_->WatchModels(&context, {});
  v1::WatchModelsResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.model().id(), 0);
  one_.service.last = 50;
  for (int i = 1; i <= 50; ++i) {
    one_.service.count = i;
    changes_.Publish("model:m");
  }

  int64_t seen = 0;
  while (reader->Read(&message)) {
    EXPECT_GE(message.model().id(), seen);
    seen = message.model().id();
  }

  EXPECT_EQ(seen, 50);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(WatchStreamTest, ErrorOfALookEndsTheStreamWithItsReason) {
  grpc::ClientContext context;
  const auto reader = stub_->WatchModels(&context, {});
  v1::WatchModelsResponse message;
  ASSERT_TRUE(reader->Read(&message));
  one_.service.count = -1;
  changes_.Publish("model:m");

  while (reader->Read(&message)) continue;

  EXPECT_THAT(FromGrpcStatus(reader->Finish()), HasReasonOf(Reason::kModelNotFound));
}

TEST_F(WatchStreamTest, CancelledWatchersLeaveWhileChangesGoOn) {
  std::atomic<bool> stop = false;
  std::jthread publisher([&] {
    while (!stop) {
      ++one_.service.count;
      one_.service.last = one_.service.count + 1000;
      changes_.Publish("model:m");
    }
  });
  for (int i = 0; i < 50; ++i) {
    grpc::ClientContext context;
    const auto reader = stub_->WatchModels(&context, {});
    v1::WatchModelsResponse message;
    ASSERT_TRUE(reader->Read(&message));
    context.TryCancel();
    while (reader->Read(&message)) continue;
    EXPECT_THAT(FromGrpcStatus(reader->Finish()), StatusIs(absl::StatusCode::kCancelled));
  }
  stop = true;
}

TEST_F(WatchStreamTest, UnaryCallsAreCountedByCode) {
  v1::Model model;
  for (const char* name : {"a", "b", ""}) {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    request.set_model_name(name);
    const absl::Status status = FromGrpcStatus(stub_->GetModel(&context, request, &model));
    EXPECT_EQ(status.ok(), *name != '\0');
  }

  const std::string text = metrics_.Scrape();
  EXPECT_NE(text.find("modeld_grpc_server_handled_total{code=\"OK\",method=\"GetModel\","
                      "service=\"modeld.v1.Registry\"} 2"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("code=\"INVALID_ARGUMENT\""), std::string::npos);
}

}  // namespace
}  // namespace modeld
