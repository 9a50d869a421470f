#include "server/engines/placement.h"

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/status.h"
#include "server/core/bytes.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kContextMin = 256;
constexpr int64_t kContextComfortable = 2048;
constexpr int64_t kSequences = 16;  // whose state beside the KV cache is counted

int64_t Of(const std::map<std::string, int64_t>& by_key, const std::string& key) {
  const auto found = by_key.find(key);
  return found == by_key.end() ? 0 : found->second;
}

std::string EffectiveDtype(const std::string& dtype, const std::string& kind) {
  return kind == "cpu" && dtype == "float16" ? "float32" : dtype;
}

// Tokens between which the context may be chosen.
struct ContextRange {
  int64_t wanted = 0;
  int64_t least = 0;
};

absl::StatusOr<ContextRange> ContextOf(const LoadSpec& spec, const Inspection& inspection) {
  const int64_t own = inspection.max_context;
  if (spec.max_context > 0) {
    if (own > 0 && spec.max_context > own) {
      return InvalidField("max_context",
                          absl::StrCat(spec.max_context, " is more than the model's ", own));
    }
    return ContextRange{spec.max_context, spec.max_context};
  }
  const int64_t wanted = own > 0 ? own : kContextComfortable;
  return ContextRange{wanted, std::min(kContextMin, wanted)};
}

// The devices that the spec allows, best first.
absl::StatusOr<std::vector<DeviceRoom>> Candidates(const LoadSpec& spec,
                                                   const std::vector<DeviceRoom>& devices,
                                                   const std::vector<PlacedModel>& placed) {
  std::string map = spec.device_map;
  if (!spec.device_map_entries.empty()) {
    std::set<std::string> named;
    for (const auto& [module, device] : spec.device_map_entries) named.insert(device);
    if (named.size() > 1) return MethodNotSupported("a device_map onto several devices");
    map = *named.begin();
  }
  std::vector<DeviceRoom> found;
  for (const DeviceRoom& device : devices) {
    if (map == "auto" || device.name == map || device.kind == map) found.push_back(device);
  }
  if (found.empty()) {
    const auto name = [](std::string* out, const DeviceRoom& device) { out->append(device.name); };
    return InvalidField("device_map", absl::StrCat("this node has no device \"", map, "\", it has ",
                                                   absl::StrJoin(devices, ", ", name)));
  }
  std::ranges::stable_sort(found, [&](const DeviceRoom& a, const DeviceRoom& b) {
    if ((a.kind == "cpu") != (b.kind == "cpu")) return b.kind == "cpu";
    return FreeBytes(a, placed) > FreeBytes(b, placed);
  });
  return found;
}

// One model on one device.
class Fit {
 public:
  Fit(const PlacementRequest& request, const Inspection& inspection, const DeviceRoom& device)
      : request_(request), inspection_(inspection), device_(device) {}

  int64_t Required(int64_t context) const {
    return RequiredBytes(inspection_, request_.spec.dtype, device_.kind, context);
  }

  // The largest context up to `range.wanted` that fits in `free` bytes, if it is at least `least`.
  std::optional<int64_t> Context(int64_t free, const ContextRange& range, int64_t least) const {
    const int64_t fixed = Required(0);
    if (fixed > free) return std::nullopt;
    const int64_t for_token = Required(1) - fixed;
    const int64_t fits = for_token > 0 ? (free - fixed) / for_token : range.wanted;
    const int64_t context = std::min(range.wanted, fits);
    return context >= least ? std::optional(context) : std::nullopt;
  }

  Placement Make(int64_t context, std::vector<std::string> evict) const {
    return {{{device_.name, Required(context)}}, context, std::move(evict)};
  }

 private:
  const PlacementRequest& request_;
  const Inspection& inspection_;
  const DeviceRoom& device_;
};

// Who may be evicted from `device`, in the order in which they go.
std::vector<PlacedModel> Victims(const PlacementRequest& request, const DeviceRoom& device,
                                 const std::vector<PlacedModel>& placed) {
  std::vector<PlacedModel> victims;
  for (const PlacedModel& model : placed) {
    const bool own = model.model_name == request.model_name;
    if (!model.ready || !model.budget_bytes.contains(device.name)) continue;
    if (own ? request.replace : !model.pinned) victims.push_back(model);
  }
  // A model that is replaced goes before anybody else has to.
  std::ranges::stable_sort(victims, [&](const PlacedModel& a, const PlacedModel& b) {
    const bool own_a = a.model_name == request.model_name;
    const bool own_b = b.model_name == request.model_name;
    return own_a != own_b ? own_a : a.last_used_ns < b.last_used_ns;
  });
  return victims;
}

std::optional<Placement> PlaceByEviction(const PlacementRequest& request, const Fit& fit,
                                         const ContextRange& range, int64_t free, int64_t least,
                                         const std::vector<PlacedModel>& victims,
                                         const std::string& device) {
  std::vector<PlacedModel> gone;
  for (const PlacedModel& victim : victims) {
    free += Of(victim.budget_bytes, device);
    gone.push_back(victim);
    if (!fit.Context(free, range, least)) continue;
    // Those whose going turned out not to matter may stay, the most recently used first.
    for (auto it = gone.rbegin(); it != gone.rend();) {
      const int64_t without = free - Of(it->budget_bytes, device);
      const bool needless =
          it->model_name != request.model_name && fit.Context(without, range, least);
      if (needless) free = without;
      it = needless ? std::make_reverse_iterator(gone.erase(std::next(it).base())) : std::next(it);
    }
    std::vector<std::string> evict;
    for (const PlacedModel& model : gone) evict.push_back(model.model_name);
    return fit.Make(*fit.Context(free, range, least), std::move(evict));
  }
  return std::nullopt;
}

std::optional<Placement> PlaceOn(const PlacementRequest& request, const Inspection& inspection,
                                 const ContextRange& range, const DeviceRoom& device,
                                 const std::vector<PlacedModel>& placed) {
  const Fit fit(request, inspection, device);
  const int64_t free = FreeBytes(device, placed);
  const std::vector<PlacedModel> victims = Victims(request, device, placed);
  const int64_t comfortable = std::max(range.least, std::min(range.wanted, kContextComfortable));
  for (const int64_t least : {comfortable, range.least}) {
    if (const auto context = fit.Context(free, range, least)) return fit.Make(*context, {});
    if (auto found = PlaceByEviction(request, fit, range, free, least, victims, device.name))
      return found;
  }
  return std::nullopt;
}

absl::Status Insufficient(const PlacementRequest& request, const Inspection& inspection,
                          int64_t context, const DeviceRoom& device,
                          const std::vector<PlacedModel>& placed) {
  const int64_t required = RequiredBytes(inspection, request.spec.dtype, device.kind, context);
  const int64_t free = std::max<int64_t>(FreeBytes(device, placed), 0);
  std::vector<std::string> pinned;
  for (const PlacedModel& model : placed) {
    if (model.pinned && model.budget_bytes.contains(device.name)) {
      pinned.push_back(absl::StrCat(model.model_name, " (",
                                    FormatBytes(Of(model.budget_bytes, device.name)), ")"));
    }
  }
  std::string message =
      absl::StrCat(request.model_name, " needs ", FormatBytes(required), " in ", request.spec.dtype,
                   " with ", context, " tokens of context, ", FormatBytes(free), " of ",
                   FormatBytes(device.total_bytes), " free on ", device.name);
  if (!pinned.empty()) absl::StrAppend(&message, ", pinned there: ", absl::StrJoin(pinned, ", "));
  return Error(Reason::kInsufficientDeviceMemory, message,
               {{"required_bytes", std::to_string(required)},
                {"free_bytes", std::to_string(free)},
                {"where", device.name},
                {"pinned", absl::StrJoin(pinned, ", ")}});
}

}  // namespace

int64_t WorkspaceBytes(const Inspection& inspection, const std::string& kind) {
  const int64_t base = (kind == "cpu" ? 64 : 768) * kMiB;
  return base + 512 * inspection.hidden_size * 64 + 64 * inspection.vocab_size * 4;
}

int64_t RequiredBytes(const Inspection& inspection, const std::string& dtype,
                      const std::string& kind, int64_t max_context) {
  const std::string effective = EffectiveDtype(dtype, kind);
  return Of(inspection.weights_bytes, effective) +
         Of(inspection.kv_bytes_per_token, effective) * max_context +
         inspection.state_bytes_per_sequence * kSequences + WorkspaceBytes(inspection, kind);
}

int64_t FreeBytes(const DeviceRoom& device, const std::vector<PlacedModel>& placed) {
  int64_t free = device.total_bytes - device.foreign_bytes;
  for (const PlacedModel& model : placed) free -= Of(model.budget_bytes, device.name);
  return free;
}

absl::StatusOr<Placement> Place(const PlacementRequest& request, const Inspection& inspection,
                                const std::vector<DeviceRoom>& devices,
                                const std::vector<PlacedModel>& placed) {
  ASSIGN_OR_RETURN(const ContextRange range, ContextOf(request.spec, inspection));
  ASSIGN_OR_RETURN(const std::vector<DeviceRoom> candidates,
                   Candidates(request.spec, devices, placed));
  // Room as it is on any GPU comes before eviction on the best one.
  for (const DeviceRoom& device : candidates) {
    const Fit fit(request, inspection, device);
    const int64_t comfortable = std::max(range.least, std::min(range.wanted, kContextComfortable));
    const auto context = fit.Context(FreeBytes(device, placed), range, comfortable);
    if (context && device.kind != "cpu") return fit.Make(*context, {});
  }
  for (const DeviceRoom& device : candidates) {
    if (auto found = PlaceOn(request, inspection, range, device, placed)) return *std::move(found);
  }
  return Insufficient(request, inspection, range.least, candidates.front(), placed);
}

}  // namespace modeld
