// A server stream that ends at once with an error.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "server/rpc/calls.h"
#include "server/wire/status_wire.h"

namespace modeld {

// Owns itself: deleted in OnDone().
template <typename Message>
class RefusedStream final : public grpc::ServerWriteReactor<Message> {
 public:
  RefusedStream(Calls& calls, const std::string& method, const absl::Status& error) {
    const grpc::Status status = ToGrpcStatus(error);
    calls.Count(method, status.error_code(), std::chrono::steady_clock::now());
    this->Finish(status);
  }
  void OnDone() override { delete this; }
};

}  // namespace modeld
