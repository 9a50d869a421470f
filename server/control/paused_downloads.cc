#include "server/control/paused_downloads.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "server/base/log.h"
#include "server/base/status.h"
#include "server/cache/space.h"
#include "server/control/space_promise.h"

namespace modeld {
namespace {

// What an operation that waits for space said that it needs.
int64_t RequiredBytes(const Operation& operation) {
  const ErrorDetails details = DetailsOf(operation.error);
  const auto found = details.metadata.find("required_bytes");
  int64_t bytes = 0;
  if (found == details.metadata.end() || !absl::SimpleAtoi(found->second, &bytes)) return 0;
  return bytes;
}

}  // namespace

void PausedDownloads::Look(const std::set<std::string>& running_models) {
  const auto paused = parts_.tables.operations.ListPaused(options_.node_id);
  if (!paused.ok()) {
    LogDebug("paused_not_listed", {{"error", paused.status()}});
    return;
  }
  ShowRemaining(*paused, running_models);
  const auto now = parts_.clock.Steady();
  if (now < next_check_) return;
  next_check_ = now + options_.space_check;
  // Of one that has not been back for so long nothing is to be learnt any more.
  std::erase_if(tries_, [&](const auto& entry) {
    return entry.second.again && now - entry.second.next > 2 * options_.space_check_max;
  });
  std::map<std::string, int64_t> promised;
  for (const Operation& operation : *paused) {
    if (operation.waits_for_space) ResumeIfRoom(operation, promised);
  }
}

void PausedDownloads::ShowRemaining(const std::vector<Operation>& paused,
                                    const std::set<std::string>& running_models) {
  const auto set = [this](const std::string& model, int64_t bytes) {
    parts_.metrics.download_remaining_bytes.Add({{"model", model}}).Set(static_cast<double>(bytes));
  };
  std::set<std::string> shown;
  for (const Operation& operation : paused) {
    if (running_models.contains(operation.model_name)) continue;
    shown.insert(operation.model_name);
    set(operation.model_name, operation.progress.bytes_total - operation.progress.bytes_done);
  }
  for (const std::string& model : shown_) {
    if (!shown.contains(model) && !running_models.contains(model)) set(model, 0);
  }
  shown_ = std::move(shown);
}

// `promised`: by path, what was found in this look already and is not reserved yet.
void PausedDownloads::ResumeIfRoom(const Operation& operation,
                                   std::map<std::string, int64_t>& promised) {
  const auto now = parts_.clock.Steady();
  // Others may be about to take the room; one that has just been paused is seen to be so.
  Try& last =
      tries_.try_emplace(operation.name, Try{.next = now + options_.space_check}).first->second;
  if (last.again) {
    last.failed = operation.progress.bytes_done > last.bytes_done ? 0 : last.failed + 1;
    const int doubled = std::min(last.failed, 16);
    last.next = now + std::min(options_.space_check * (1 << doubled), options_.space_check_max);
    last.again = false;
  }
  if (now < last.next) return;
  const auto model = parts_.tables.models.GetById(operation.model_id);
  if (!model.ok()) {
    LogDebug("room_not_known", {{"operation", operation.name}, {"error", model.status()}});
    return;
  }
  const std::string cache_path = parts_.registry.CachePathOf(*model);
  const auto room = RoomFor(parts_.tables, cache_path, operation.name);
  const auto filesystem = FilesystemOf(cache_path);
  if (!room.ok() || !filesystem.ok()) {
    LogDebug("room_not_known", {{"operation", operation.name},
                                {"error", room.ok() ? filesystem.status() : room.status()}});
    return;
  }
  const int64_t required = RequiredBytes(operation);
  int64_t& taken = promised[filesystem->id];
  if (*room - taken < required) return;
  const absl::Status resumed = parts_.tables.operations.EndWaitForSpace(operation.name);
  if (!resumed.ok()) {
    LogDebug("operation_not_resumed", {{"operation", operation.name}, {"error", resumed}});
    return;
  }
  taken += required;
  last.again = true;
  last.bytes_done = operation.progress.bytes_done;
  last.next = now;
  LogInfo("operation_has_room", {{"operation", operation.name},
                                 {"model", operation.model_name},
                                 {"required_bytes", required},
                                 {"free_bytes", *room}});
}

}  // namespace modeld
