#include "server/control/instance_rows.h"

#include <set>
#include <utility>
#include <vector>

#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr std::chrono::seconds kFiguresEvery{5};

bool SameFigures(const Instance& a, const Instance& b) {
  return a.devices == b.devices && a.load_seconds == b.load_seconds && a.spec == b.spec &&
         a.active_requests == b.active_requests && a.waiting_requests == b.waiting_requests;
}

}  // namespace

absl::Status InstanceRows::Sync() {
  MutexLock lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  std::set<std::string> present;
  for (const Instance& instance : engines_.List()) {
    present.insert(instance.instance_id);
    const auto before = written_.find(instance.instance_id);
    if (before != written_.end()) {
      const Instance& old = before->second.instance;
      const bool same_state = old.state == instance.state && old.pid == instance.pid;
      const bool fresh = now - before->second.time < kFiguresEvery;
      if (same_state && (fresh || SameFigures(old, instance))) continue;
    }
    RETURN_IF_ERROR(tables_.instances.Put(instance));
    written_[instance.instance_id] = {instance, now};
  }
  for (auto row = written_.begin(); row != written_.end();) {
    if (present.contains(row->first)) {
      ++row;
      continue;
    }
    RETURN_IF_ERROR(tables_.instances.Delete(row->first));
    row = written_.erase(row);
  }
  return absl::OkStatus();
}

}  // namespace modeld
