// The stable reasons of the public contract, each with its one canonical code.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/base/status.h"

namespace modeld {

enum class Reason {
  kInvalidField,
  kModelNotFound,
  kOperationNotFound,
  kModelAlreadyExists,
  kHubRepoNotFound,
  kHubRevisionNotFound,
  kHubEntryNotFound,
  kHubAccessDenied,
  kModelInUse,
  kOperationInProgress,
  kOperationNotActive,
  kInvalidRepository,
  kNoChatTemplate,
  kCacheNotWritable,
  kContextLengthExceeded,
  kEngineLost,
  kMethodNotSupported,
  kUnauthenticated,
  kInternal,
  kInsufficientDisk,
  kInsufficientDeviceMemory,
  kHubUnavailable,
  kDatabaseUnavailable,
  kDigestMismatch,
  kModelNotReady,
  kRemoteCodeNotTrusted,
  kUnsupportedArchitecture,
  kUnsupportedWeights,
  kQueueFull,
};

// "MODEL_NOT_FOUND"; and its code, NOT_FOUND.
std::string_view ReasonName(Reason reason);
absl::StatusCode ReasonCode(Reason reason);
// The reason of that name, if the contract has it.
std::optional<Reason> ParseReason(std::string_view name);

// Whether `status` carries that reason.
bool HasReason(const absl::Status& status, Reason reason);

// An error of the contract. `message` names the thing and the figures.
absl::Status Error(Reason reason, std::string_view message,
                   std::map<std::string, std::string> metadata = {});

// The errors that carry more than metadata.
absl::Status InvalidField(std::string_view field, std::string_view description);
absl::Status ModelNotFound(std::string_view model_name);
absl::Status OperationNotFound(std::string_view name);
absl::Status MethodNotSupported(std::string_view method);
// `retry_after` says when trying again may help.
absl::Status Unavailable(Reason reason, std::string_view message,
                         std::chrono::milliseconds retry_after);
// Metadata required_bytes and free_bytes; `where` is a path or a device.
absl::Status InsufficientBytes(Reason reason, std::string_view where, int64_t required_bytes,
                               int64_t free_bytes);

}  // namespace modeld
