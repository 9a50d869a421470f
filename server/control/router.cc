#include "server/control/router.h"

#include <utility>
#include <vector>

#include "server/base/log.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr std::string_view kModelTopic = "model:";
constexpr int64_t kPage = 1000;
// After a failed read: the database is away.
constexpr std::chrono::milliseconds kAgainAfter{1'000};

}  // namespace

Router::Router(const Parts& parts)
    : parts_(parts),
      subscription_(parts.changes.SubscribeNamed(
          std::string(kModelTopic), [this](const std::string& what) { OnChange(what); })),
      thread_([this](std::stop_token stop) { KeepNames(stop); }) {}

Router::~Router() {
  subscription_.reset();
  MutexLock lock(mutex_);
  stopping_ = true;
  changed_.NotifyAll();
}

absl::StatusOr<EngineHandle> Router::RouteNow(std::string_view model_name) {
  auto handle = parts_.engines.Pin(model_name);
  if (handle.ok() || !HasReason(handle.status(), Reason::kModelNotReady)) return handle;
  MutexLock lock(mutex_);
  if (names_.contains(model_name)) return handle;
  return ModelNotFound(model_name);
}

absl::StatusOr<EngineHandle> Router::Route(std::string_view model_name) {
  auto handle = RouteNow(model_name);
  if (handle.ok() || !HasReason(handle.status(), Reason::kModelNotFound)) return handle;
  RETURN_IF_ERROR(ValidateModelName(model_name));
  const absl::Status read = ReadName(std::string(model_name));
  if (read.ok()) return RouteNow(model_name);
  MutexLock lock(mutex_);
  // All names were seen and this was not among them: that is known, with or without a database.
  if (complete_ && HasReason(read, Reason::kDatabaseUnavailable)) return handle;
  return read;
}

void Router::OnChange(const std::string& what) {
  MutexLock lock(mutex_);
  if (what.size() > kModelTopic.size()) {
    stale_.insert(what.substr(kModelTopic.size()));
  } else {
    all_stale_ = true;
  }
  changed_.NotifyAll();
}

void Router::KeepNames(std::stop_token stop) {
  while (!stop.stop_requested()) {
    bool all = false;
    std::set<std::string> stale;
    {
      MutexLock lock(mutex_);
      while (!all_stale_ && stale_.empty() && !stopping_) changed_.Wait(mutex_);
      if (stopping_) return;
      all = std::exchange(all_stale_, false);
      stale.swap(stale_);
    }
    absl::Status read = all ? ReadAllNames() : absl::OkStatus();
    for (const std::string& name : stale) {
      const absl::Status one = ReadName(name);
      if (!one.ok() && !HasReason(one, Reason::kModelNotFound)) read = one;
    }
    if (read.ok()) continue;
    LogDebug("model_names_not_read", {{"error", read}});
    MutexLock lock(mutex_);
    all_stale_ = true;
    if (!stopping_) changed_.WaitFor(mutex_, kAgainAfter);
  }
}

absl::Status Router::ReadAllNames() {
  std::set<std::string, std::less<>> names;
  std::string after;
  while (true) {
    ASSIGN_OR_RETURN(const std::vector<ModelView> views,
                     parts_.tables.models.ListViews(after, kPage, std::nullopt));
    for (const ModelView& view : views) names.insert(view.model.model_name);
    if (std::ssize(views) < kPage) break;
    after = views.back().model.model_name;
  }
  MutexLock lock(mutex_);
  names_ = std::move(names);
  complete_ = true;
  return absl::OkStatus();
}

absl::Status Router::ReadName(const std::string& model_name) {
  const absl::Status found = parts_.tables.models.Get(model_name).status();
  MutexLock lock(mutex_);
  if (found.ok()) names_.insert(model_name);
  if (HasReason(found, Reason::kModelNotFound)) names_.erase(model_name);
  return found;
}

}  // namespace modeld
