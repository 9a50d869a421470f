#include "server/wire/status_wire.h"

#include <chrono>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "server/base/status.h"

namespace modeld {
namespace {

using google::rpc::BadRequest;
using google::rpc::ErrorInfo;
using google::rpc::ResourceInfo;
using google::rpc::RetryInfo;

constexpr char kDomain[] = "modeld";

}  // namespace

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status out;
  out.set_code(static_cast<int>(status.code()));
  out.set_message(std::string(status.message()));
  if (status.ok()) return out;
  const ErrorDetails details = DetailsOf(status);
  ErrorInfo info;
  info.set_domain(kDomain);
  info.set_reason(details.reason.empty() ? absl::StatusCodeToString(status.code())
                                         : details.reason);
  for (const auto& [key, value] : details.metadata) (*info.mutable_metadata())[key] = value;
  out.add_details()->PackFrom(info);
  if (!details.fields.empty()) {
    BadRequest bad;
    for (const FieldViolation& field : details.fields) {
      auto* violation = bad.add_field_violations();
      violation->set_field(field.field);
      violation->set_description(field.description);
    }
    out.add_details()->PackFrom(bad);
  }
  if (details.retry_after) {
    RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(details.retry_after->count() / 1000);
    retry.mutable_retry_delay()->set_nanos(
        static_cast<int32_t>(details.retry_after->count() % 1000 * 1'000'000));
    out.add_details()->PackFrom(retry);
  }
  if (details.resource) {
    ResourceInfo resource;
    resource.set_resource_type(details.resource->type);
    resource.set_resource_name(details.resource->name);
    resource.set_description(std::string(status.message()));
    out.add_details()->PackFrom(resource);
  }
  return out;
}

absl::Status FromRpcStatus(const google::rpc::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  ErrorDetails details;
  for (const google::protobuf::Any& any : status.details()) {
    if (ErrorInfo info; any.UnpackTo(&info)) {
      details.reason = info.reason();
      details.metadata = {info.metadata().begin(), info.metadata().end()};
    } else if (BadRequest bad; any.UnpackTo(&bad)) {
      for (const auto& field : bad.field_violations()) {
        details.fields.push_back({field.field(), field.description()});
      }
    } else if (RetryInfo retry; any.UnpackTo(&retry)) {
      details.retry_after = std::chrono::milliseconds(retry.retry_delay().seconds() * 1000 +
                                                      retry.retry_delay().nanos() / 1'000'000);
    } else if (ResourceInfo resource; any.UnpackTo(&resource)) {
      details.resource = {resource.resource_type(), resource.resource_name()};
    }
  }
  return ErrorWithDetails(static_cast<absl::StatusCode>(status.code()), status.message(), details);
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      ToRpcStatus(status).SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details()) &&
      details.code() != 0) {
    return FromRpcStatus(details);
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace modeld
