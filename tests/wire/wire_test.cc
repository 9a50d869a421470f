#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "server/wire/convert.h"
#include "server/wire/status_wire.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

TEST(StatusWireTest, EveryDetailCrossesTheWire) {
  const ErrorDetails details{.reason = "INSUFFICIENT_DISK",
                             .metadata = {{"free_bytes", "1"}},
                             .fields = {{"f", "d"}},
                             .retry_after = std::chrono::milliseconds(2500),
                             .resource = MissingResource{"model", "m"}};

  const absl::Status read = FromGrpcStatus(
      ToGrpcStatus(ErrorWithDetails(absl::StatusCode::kResourceExhausted, "needs more", details)));

  EXPECT_THAT(read, HasReasonOf(Reason::kInsufficientDisk));
  EXPECT_EQ(read.message(), "needs more");
  EXPECT_EQ(DetailsOf(read), details);
}

TEST(StatusWireTest, EveryErrorHasErrorInfoOfOurDomain) {
  const google::rpc::Status status = ToRpcStatus(absl::InternalError("a bug"));

  ASSERT_EQ(status.details_size(), 1);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(status.details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "modeld");
  EXPECT_EQ(info.reason(), "INTERNAL");
}

TEST(StatusWireTest, ForeignStatusWithoutDetailsKeepsCodeAndMessage) {
  const absl::Status status =
      FromGrpcStatus(grpc::Status(grpc::StatusCode::UNAVAILABLE, "Socket closed"));

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(status.message(), "Socket closed");
  EXPECT_THAT(FromGrpcStatus(grpc::Status::OK), IsOk());
}

TEST(ConvertTest, EnumsHaveTheSameNumbersAsTheProtos) {
  EXPECT_EQ(static_cast<int>(ModelState::kFailed), v1::MODEL_STATE_FAILED);
  EXPECT_EQ(static_cast<int>(ModelState::kRegistered), v1::MODEL_STATE_REGISTERED);
  EXPECT_EQ(static_cast<int>(OperationState::kCancelled), v1::OPERATION_STATE_CANCELLED);
  EXPECT_EQ(static_cast<int>(OperationKind::kVerify), v1::OPERATION_KIND_VERIFY);
  EXPECT_EQ(static_cast<int>(OperationPhase::kReady), v1::OPERATION_PHASE_READY);
  EXPECT_EQ(static_cast<int>(FileState::kFailed), v1::FILE_STATE_FAILED);
  EXPECT_EQ(static_cast<int>(InstanceState::kDraining), v1::INSTANCE_STATE_DRAINING);
}

TEST(ConvertTest, OperationShowsProgressAndError) {
  Operation operation;
  operation.name = "op";
  operation.state = OperationState::kFailed;
  operation.progress = {.phase = OperationPhase::kDownloading,
                        .bytes_done = 5,
                        .bytes_total = 10,
                        .eta = std::chrono::milliseconds(1500),
                        .files = {{"a", 10, 5, FileState::kDownloading}}};
  operation.error = ModelNotFound("m");

  const v1::Operation proto = ToProto(operation);

  EXPECT_TRUE(proto.done());
  EXPECT_EQ(proto.bytes_done(), 5);
  EXPECT_EQ(proto.eta().nanos(), 500'000'000);
  EXPECT_EQ(proto.files(0).state(), v1::FILE_STATE_DOWNLOADING);
  EXPECT_EQ(proto.error().code(), 5);
  EXPECT_FALSE(proto.has_end_time());
}

TEST(ConvertTest, UnsetSamplingFieldsStayUnset) {
  v1::Sampling proto;
  proto.set_temperature(0);
  proto.add_stop("x");

  const SamplingRequest request = FromProto(proto);

  EXPECT_EQ(request.temperature, 0.0);
  EXPECT_EQ(request.top_p, std::nullopt);
  EXPECT_EQ(request.seed, std::nullopt);
  EXPECT_EQ(request.stop, std::vector<std::string>{"x"});
}

TEST(ConvertTest, EmptyLoadFieldsMeanTheDefaults) {
  v1::LoadModelRequest request;
  EXPECT_EQ(FromProto(request), LoadSpec{});

  (*request.mutable_device_map_entries())["model"] = "cpu";
  EXPECT_EQ(FromProto(request).device_map, "");
}

}  // namespace
}  // namespace modeld
