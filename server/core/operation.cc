#include "server/core/operation.h"

namespace modeld {

std::string_view OperationKindName(OperationKind kind) {
  switch (kind) {
    case OperationKind::kUnspecified:
      break;
    case OperationKind::kDownload:
      return "download";
    case OperationKind::kLoad:
      return "load";
    case OperationKind::kUnload:
      return "unload";
    case OperationKind::kVerify:
      return "verify";
  }
  return "unspecified";
}

std::string_view OperationStateName(OperationState state) {
  switch (state) {
    case OperationState::kUnspecified:
      break;
    case OperationState::kPending:
      return "pending";
    case OperationState::kRunning:
      return "running";
    case OperationState::kPaused:
      return "paused";
    case OperationState::kSucceeded:
      return "succeeded";
    case OperationState::kFailed:
      return "failed";
    case OperationState::kCancelled:
      return "cancelled";
  }
  return "unspecified";
}

bool IsFinal(OperationState state) {
  return state == OperationState::kSucceeded || state == OperationState::kFailed ||
         state == OperationState::kCancelled;
}

bool MayFollow(OperationState from, OperationState to) {
  using enum OperationState;
  if (from == kUnspecified || to == kUnspecified) return false;
  if (from == to) return true;
  switch (from) {
    case kPending:
      return true;
    case kRunning:
      return true;
    case kPaused:
      return to == kPending || to == kCancelled || to == kFailed;
    default:
      return false;
  }
}

}  // namespace modeld
