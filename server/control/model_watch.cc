#include "server/control/model_watch.h"

#include <utility>

#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

// What a watcher gets to see of a model.
bool Same(const ModelView& a, const ModelView& b) {
  const Model& m = a.model;
  const Model& n = b.model;
  return m.id == n.id && m.hf_path == n.hf_path && m.revision == n.revision &&
         m.commit == n.commit && m.trust_remote_code == n.trust_remote_code &&
         m.cache_location == n.cache_location && m.cache_path == n.cache_path &&
         m.snapshot_path == n.snapshot_path && m.estimated_size_bytes == n.estimated_size_bytes &&
         m.size_bytes == n.size_bytes && m.filter == n.filter &&
         m.inspection_json == n.inspection_json && m.update_time == n.update_time &&
         a.state == b.state && a.error == b.error;
}

}  // namespace

absl::StatusOr<std::vector<ModelView>> ModelWatch::Look() {
  if (model_name_.empty()) return registry_.ListAll();
  auto view = registry_.Get(model_name_);
  if (HasReason(view.status(), Reason::kModelNotFound)) return std::vector<ModelView>();
  if (!view.ok()) return view.status();
  return std::vector<ModelView>{*std::move(view)};
}

absl::StatusOr<std::vector<ModelChange>> ModelWatch::Poll() {
  ASSIGN_OR_RETURN(std::vector<ModelView> views, Look());
  std::map<std::string, ModelView> now;
  for (ModelView& view : views) {
    std::string name = view.model.model_name;
    now.emplace(std::move(name), std::move(view));
  }
  std::vector<ModelChange> changes;
  for (const auto& [name, view] : seen_) {
    const auto found = now.find(name);
    // A row of another id is another model that got the name.
    if (found == now.end() || found->second.model.id != view.model.id) {
      changes.push_back({ModelChangeType::kDeleted, view});
    }
  }
  for (const auto& [name, view] : now) {
    const auto before = seen_.find(name);
    if (before == seen_.end() || before->second.model.id != view.model.id) {
      changes.push_back({ModelChangeType::kAdded, view});
    } else if (!Same(before->second, view)) {
      changes.push_back({ModelChangeType::kModified, view});
    }
  }
  seen_ = std::move(now);
  return changes;
}

}  // namespace modeld
