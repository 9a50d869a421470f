#include "server/core/reason.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "server/core/bytes.h"

namespace modeld {
namespace {

using absl::StatusCode;

struct ReasonRow {
  Reason reason;
  std::string_view name;
  StatusCode code;
};

constexpr std::array kReasons = {
    ReasonRow{Reason::kInvalidField, "INVALID_FIELD", StatusCode::kInvalidArgument},
    ReasonRow{Reason::kModelNotFound, "MODEL_NOT_FOUND", StatusCode::kNotFound},
    ReasonRow{Reason::kOperationNotFound, "OPERATION_NOT_FOUND", StatusCode::kNotFound},
    ReasonRow{Reason::kModelAlreadyExists, "MODEL_ALREADY_EXISTS", StatusCode::kAlreadyExists},
    ReasonRow{Reason::kHubRepoNotFound, "HUB_REPO_NOT_FOUND", StatusCode::kNotFound},
    ReasonRow{Reason::kHubRevisionNotFound, "HUB_REVISION_NOT_FOUND", StatusCode::kNotFound},
    ReasonRow{Reason::kHubEntryNotFound, "HUB_ENTRY_NOT_FOUND", StatusCode::kNotFound},
    ReasonRow{Reason::kHubAccessDenied, "HUB_ACCESS_DENIED", StatusCode::kPermissionDenied},
    ReasonRow{Reason::kModelInUse, "MODEL_IN_USE", StatusCode::kFailedPrecondition},
    ReasonRow{Reason::kOperationInProgress, "OPERATION_IN_PROGRESS",
              StatusCode::kFailedPrecondition},
    ReasonRow{Reason::kOperationNotActive, "OPERATION_NOT_ACTIVE", StatusCode::kFailedPrecondition},
    ReasonRow{Reason::kInvalidRepository, "INVALID_REPOSITORY", StatusCode::kFailedPrecondition},
    ReasonRow{Reason::kNoChatTemplate, "NO_CHAT_TEMPLATE", StatusCode::kFailedPrecondition},
    ReasonRow{Reason::kCacheNotWritable, "CACHE_NOT_WRITABLE", StatusCode::kFailedPrecondition},
    ReasonRow{Reason::kContextLengthExceeded, "CONTEXT_LENGTH_EXCEEDED",
              StatusCode::kInvalidArgument},
    ReasonRow{Reason::kEngineLost, "ENGINE_LOST", StatusCode::kUnavailable},
    ReasonRow{Reason::kMethodNotSupported, "METHOD_NOT_SUPPORTED", StatusCode::kUnimplemented},
    ReasonRow{Reason::kUnauthenticated, "UNAUTHENTICATED", StatusCode::kUnauthenticated},
    ReasonRow{Reason::kInternal, "INTERNAL", StatusCode::kInternal},
    ReasonRow{Reason::kInsufficientDisk, "INSUFFICIENT_DISK", StatusCode::kResourceExhausted},
    ReasonRow{Reason::kInsufficientDeviceMemory, "INSUFFICIENT_DEVICE_MEMORY",
              StatusCode::kResourceExhausted},
    ReasonRow{Reason::kHubUnavailable, "HUB_UNAVAILABLE", StatusCode::kUnavailable},
    ReasonRow{Reason::kDatabaseUnavailable, "DATABASE_UNAVAILABLE", StatusCode::kUnavailable},
    ReasonRow{Reason::kDigestMismatch, "DIGEST_MISMATCH", StatusCode::kDataLoss},
    ReasonRow{Reason::kModelNotReady, "MODEL_NOT_READY", StatusCode::kFailedPrecondition},
    ReasonRow{Reason::kRemoteCodeNotTrusted, "REMOTE_CODE_NOT_TRUSTED",
              StatusCode::kFailedPrecondition},
    ReasonRow{Reason::kUnsupportedArchitecture, "UNSUPPORTED_ARCHITECTURE",
              StatusCode::kUnimplemented},
    ReasonRow{Reason::kUnsupportedWeights, "UNSUPPORTED_WEIGHTS", StatusCode::kUnimplemented},
    ReasonRow{Reason::kQueueFull, "QUEUE_FULL", StatusCode::kResourceExhausted},
};

const ReasonRow& RowOf(Reason reason) {
  for (const ReasonRow& row : kReasons) {
    if (row.reason == reason) return row;
  }
  Panic("a reason without a row", __FILE__, __LINE__);
}

}  // namespace

std::string_view ReasonName(Reason reason) { return RowOf(reason).name; }

absl::StatusCode ReasonCode(Reason reason) { return RowOf(reason).code; }

std::optional<Reason> ParseReason(std::string_view name) {
  for (const ReasonRow& row : kReasons) {
    if (row.name == name) return row.reason;
  }
  return std::nullopt;
}

bool HasReason(const absl::Status& status, Reason reason) {
  return !status.ok() && ReasonOf(status) == ReasonName(reason);
}

absl::Status Error(Reason reason, std::string_view message,
                   std::map<std::string, std::string> metadata) {
  return ErrorWithDetails(
      ReasonCode(reason), message,
      {.reason = std::string(ReasonName(reason)), .metadata = std::move(metadata)});
}

absl::Status InvalidField(std::string_view field, std::string_view description) {
  return ErrorWithDetails(ReasonCode(Reason::kInvalidField),
                          std::string(field) + ": " + std::string(description),
                          {.reason = std::string(ReasonName(Reason::kInvalidField)),
                           .fields = {{std::string(field), std::string(description)}}});
}

absl::Status ModelNotFound(std::string_view model_name) {
  return ErrorWithDetails(ReasonCode(Reason::kModelNotFound),
                          "no model is named \"" + std::string(model_name) + "\"",
                          {.reason = std::string(ReasonName(Reason::kModelNotFound)),
                           .resource = MissingResource{"model", std::string(model_name)}});
}

absl::Status OperationNotFound(std::string_view name) {
  return ErrorWithDetails(ReasonCode(Reason::kOperationNotFound),
                          "no operation is named \"" + std::string(name) + "\"",
                          {.reason = std::string(ReasonName(Reason::kOperationNotFound)),
                           .resource = MissingResource{"operation", std::string(name)}});
}

absl::Status MethodNotSupported(std::string_view method) {
  return Error(Reason::kMethodNotSupported,
               std::string(method) + " is not supported by this version of modeld",
               {{"method", std::string(method)}});
}

absl::Status Unavailable(Reason reason, std::string_view message,
                         std::chrono::milliseconds retry_after) {
  return ErrorWithDetails(ReasonCode(reason), message,
                          {.reason = std::string(ReasonName(reason)), .retry_after = retry_after});
}

absl::Status InsufficientBytes(Reason reason, std::string_view where, int64_t required_bytes,
                               int64_t free_bytes) {
  return Error(reason,
               absl::StrCat("needs ", FormatBytes(required_bytes), ", ", FormatBytes(free_bytes),
                            " free on ", std::string(where)),
               {{"required_bytes", std::to_string(required_bytes)},
                {"free_bytes", std::to_string(free_bytes)},
                {"where", std::string(where)}});
}

}  // namespace modeld
