// absl::Status <-> grpc::Status and google.rpc.Status, with every detail: the only conversions.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"

namespace modeld {

// With ErrorInfo always (reason INTERNAL for an INTERNAL status without one, else the code's name).
google::rpc::Status ToRpcStatus(const absl::Status& status);
absl::Status FromRpcStatus(const google::rpc::Status& status);

// The details travel in grpc-status-details-bin.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace modeld
