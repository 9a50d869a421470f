#include "server/engines/placement.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/status.h"
#include "server/core/bytes.h"
#include "server/core/reason.h"
#include "server/engines/layer_split.h"

namespace modeld {
namespace {

constexpr int64_t kContextMin = 256;
constexpr int64_t kContextComfortable = 2048;
constexpr int64_t kSequences = 16;  // whose state beside the KV cache is counted

int64_t Of(const std::map<std::string, int64_t>& by_key, const std::string& key) {
  const auto found = by_key.find(key);
  return found == by_key.end() ? 0 : found->second;
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

std::string NamesOf(const std::vector<DeviceRoom>& devices) {
  return absl::StrJoin(
      devices, ", ", [](std::string* out, const DeviceRoom& device) { out->append(device.name); });
}

// The devices that spec.device_map allows, best first.
absl::StatusOr<std::vector<DeviceRoom>> Candidates(const std::string& map,
                                                   const std::vector<DeviceRoom>& devices,
                                                   const std::vector<PlacedModel>& placed) {
  std::vector<DeviceRoom> found;
  for (const DeviceRoom& device : devices) {
    if (map == "auto" || device.name == map || device.kind == map) found.push_back(device);
  }
  if (found.empty()) {
    return InvalidField("device_map", absl::StrCat("this node has no device \"", map, "\", it has ",
                                                   NamesOf(devices)));
  }
  std::ranges::stable_sort(found, [&](const DeviceRoom& a, const DeviceRoom& b) {
    if ((a.kind == "cpu") != (b.kind == "cpu")) return b.kind == "cpu";
    return FreeBytes(a, placed) > FreeBytes(b, placed);
  });
  return found;
}

// The entries of a map with the names that the devices have; "cuda" is the first of its kind.
absl::StatusOr<std::map<std::string, std::string>> WithDevices(
    const std::map<std::string, std::string>& entries, const std::vector<DeviceRoom>& devices) {
  std::map<std::string, std::string> named;
  for (const auto& [module, name] : entries) {
    const auto found = std::ranges::find_if(devices, [&](const DeviceRoom& device) {
      return device.name == name || device.kind == name;
    });
    if (found == devices.end()) {
      return InvalidField("device_map_entries",
                          absl::StrCat("\"", module, "\" is mapped to \"", name,
                                       "\", but this node has ", NamesOf(devices)));
    }
    named[module] = found->name;
  }
  return named;
}

using Free = std::vector<SplitDevice>;

// One way to place the model: on one device, by a map, or divided over some devices.
struct Way {
  std::vector<DeviceRoom> devices;
  // With the most context that fits into what is free, if that is at least `least` tokens.
  std::function<std::optional<Placement>(const Free& free, int64_t least)> place;
};

Placement OnMap(const DeviceMap& map, const DeviceNeeds& needs, int64_t context) {
  Placement placement{.max_context = context};
  for (const auto& [device, need] : needs) placement.budget_bytes[device] = need.At(context);
  if (needs.size() > 1) placement.device_map_entries = map.ToEntries();
  return placement;
}

// The ways in which one request can be placed.
class Ways {
 public:
  Ways(const PlacementRequest& request, const Inspection& inspection, const ContextRange& range)
      : request_(request), inspection_(inspection), range_(range) {}

  Way OnOne(const DeviceRoom& device) const {
    return {{device}, [this, device](const Free& free, int64_t least) {
              return PlaceOnOne(device, free.front().free_bytes, least);
            }};
  }

  Way By(const DeviceMap& map, const std::vector<DeviceRoom>& devices) const {
    Way way;
    const std::vector<std::string> used = map.Devices();
    for (const DeviceRoom& device : devices) {
      if (std::ranges::find(used, device.name) != used.end()) way.devices.push_back(device);
    }
    way.place = [this, map](const Free& free, int64_t least) -> std::optional<Placement> {
      const DeviceNeeds needs = NeedsOf(inspection_, request_.spec.dtype, map, free);
      const std::optional<int64_t> context = ContextWithin(needs, free, range_.wanted);
      if (!context || *context < least) return std::nullopt;
      return OnMap(map, needs, *context);
    };
    return way;
  }

  Way Divided(std::vector<DeviceRoom> devices) const {
    return {std::move(devices),
            [this](const Free& free, int64_t least) { return PlaceDivided(free, least); }};
  }

 private:
  std::optional<Placement> PlaceOnOne(const DeviceRoom& device, int64_t free, int64_t least) const {
    const auto required = [&](int64_t context) {
      return RequiredBytes(inspection_, request_.spec.dtype, device.kind, context);
    };
    const DeviceNeeds needs = {{device.name, {required(0), required(1) - required(0)}}};
    const auto context = ContextWithin(needs, {{device.name, device.kind, free}}, range_.wanted);
    if (!context || *context < least) return std::nullopt;
    return OnMap({}, needs, *context);
  }

  // On as few of the devices as hold it, in their order.
  std::optional<Placement> PlaceDivided(const Free& free, int64_t least) const {
    const std::string& dtype = request_.spec.dtype;
    for (size_t count = 2; count <= free.size(); ++count) {
      const Free first(free.begin(), free.begin() + static_cast<ptrdiff_t>(count));
      std::optional<DeviceMap> best = SplitLayers(inspection_, dtype, first, least);
      if (!best) continue;
      // More tokens fit in the less layers a device has: the most for which there is a division.
      int64_t low = least;
      int64_t high = range_.wanted;
      while (low < high) {
        const int64_t middle = low + (high - low + 1) / 2;
        std::optional<DeviceMap> map = SplitLayers(inspection_, dtype, first, middle);
        low = map ? middle : low;
        high = map ? high : middle - 1;
        if (map) best = std::move(map);
      }
      return OnMap(*best, NeedsOf(inspection_, dtype, *best, first), low);
    }
    return std::nullopt;
  }

  const PlacementRequest& request_;
  const Inspection& inspection_;
  const ContextRange range_;
};

Free FreeOf(const Way& way, const std::vector<PlacedModel>& placed) {
  Free free;
  for (const DeviceRoom& device : way.devices) {
    free.push_back({device.name, device.kind, FreeBytes(device, placed)});
  }
  return free;
}

void GiveBack(const PlacedModel& model, Free& free) {
  for (SplitDevice& device : free) device.free_bytes += Of(model.budget_bytes, device.name);
}

// Who may be evicted from the devices of `way`, in the order in which they go.
std::vector<PlacedModel> Victims(const PlacementRequest& request, const Way& way,
                                 const std::vector<PlacedModel>& placed) {
  std::vector<PlacedModel> victims;
  for (const PlacedModel& model : placed) {
    const bool own = model.model_name == request.model_name;
    const bool is_there = std::ranges::any_of(way.devices, [&](const DeviceRoom& device) {
      return model.budget_bytes.contains(device.name);
    });
    if (!model.ready || !is_there) continue;
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

std::optional<Placement> PlaceByEviction(const PlacementRequest& request, const Way& way,
                                         const Free& free, int64_t least,
                                         const std::vector<PlacedModel>& victims) {
  std::vector<PlacedModel> gone;
  const auto without = [&](const std::string& kept) {
    Free left = free;
    for (const PlacedModel& model : gone) {
      if (model.model_name != kept) GiveBack(model, left);
    }
    return left;
  };
  for (const PlacedModel& victim : victims) {
    gone.push_back(victim);
    if (!way.place(without(""), least)) continue;
    // Those whose going turned out not to matter may stay, the most recently used first.
    for (size_t i = gone.size(); i-- > 0;) {
      const std::string& name = gone[i].model_name;
      if (name == request.model_name || !way.place(without(name), least)) continue;
      gone.erase(gone.begin() + static_cast<ptrdiff_t>(i));
    }
    std::optional<Placement> placement = way.place(without(""), least);
    for (const PlacedModel& model : gone) placement->evict.push_back(model.model_name);
    return placement;
  }
  return std::nullopt;
}

int64_t Comfortable(const ContextRange& range) {
  return std::max(range.least, std::min(range.wanted, kContextComfortable));
}

std::optional<Placement> PlaceBy(const PlacementRequest& request, const Way& way,
                                 const ContextRange& range,
                                 const std::vector<PlacedModel>& placed) {
  const Free free = FreeOf(way, placed);
  const std::vector<PlacedModel> victims = Victims(request, way, placed);
  for (const int64_t least : {Comfortable(range), range.least}) {
    if (auto found = way.place(free, least)) return found;
    if (auto found = PlaceByEviction(request, way, free, least, victims)) return found;
  }
  return std::nullopt;
}

std::optional<Placement> PlaceAsItIs(const Way& way, const ContextRange& range,
                                     const std::vector<PlacedModel>& placed) {
  const Free free = FreeOf(way, placed);
  for (const int64_t least : {Comfortable(range), range.least}) {
    if (auto found = way.place(free, least)) return found;
  }
  return std::nullopt;
}

// Over devices that the spec leaves free to choose, best first.
std::optional<Placement> PlaceAnywhere(const PlacementRequest& request, const Ways& ways,
                                       const ContextRange& range,
                                       const std::vector<DeviceRoom>& candidates,
                                       const std::vector<PlacedModel>& placed) {
  std::vector<DeviceRoom> gpus;
  std::vector<DeviceRoom> cpus;
  for (const DeviceRoom& device : candidates) {
    (device.kind == "cpu" ? cpus : gpus).push_back(device);
  }
  // Room as it is on any GPU comes before eviction on the best one.
  for (const DeviceRoom& gpu : gpus) {
    const Way way = ways.OnOne(gpu);
    if (auto found = way.place(FreeOf(way, placed), Comfortable(range))) return found;
  }
  for (const DeviceRoom& gpu : gpus) {
    if (auto found = PlaceBy(request, ways.OnOne(gpu), range, placed)) return found;
  }
  if (auto found = PlaceBy(request, ways.Divided(gpus), range, placed)) return found;
  const bool is_mixed = !gpus.empty() && !cpus.empty();
  if (is_mixed) {
    const auto uses_gpu = [&](const Placement& placement) {
      return std::ranges::any_of(
          gpus, [&](const DeviceRoom& gpu) { return placement.budget_bytes.contains(gpu.name); });
    };
    auto found = PlaceAsItIs(ways.Divided(candidates), range, placed);
    if (found && uses_gpu(*found)) return found;
  }
  for (const DeviceRoom& cpu : cpus) {
    if (auto found = PlaceBy(request, ways.OnOne(cpu), range, placed)) return found;
  }
  if (auto found = PlaceBy(request, ways.Divided(cpus), range, placed)) return found;
  return is_mixed ? PlaceBy(request, ways.Divided(candidates), range, placed) : std::nullopt;
}

std::string PinnedOn(const std::vector<DeviceRoom>& devices,
                     const std::vector<PlacedModel>& placed) {
  std::vector<std::string> pinned;
  for (const PlacedModel& model : placed) {
    int64_t bytes = 0;
    for (const DeviceRoom& device : devices) bytes += Of(model.budget_bytes, device.name);
    if (!model.pinned || bytes == 0) continue;
    pinned.push_back(absl::StrCat(model.model_name, " (", FormatBytes(bytes), ")"));
  }
  return absl::StrJoin(pinned, ", ");
}

// What is needed on some devices, each of them or all together, and what is free there.
struct Shortage {
  std::string needs;  // "needs 2.0 GB"
  std::vector<DeviceRoom> devices;
  int64_t required_bytes = 0;  // on the first of them
};

absl::Status Insufficient(const PlacementRequest& request, const Shortage& shortage,
                          int64_t context, const std::vector<PlacedModel>& placed) {
  std::vector<std::string> rooms;
  for (const DeviceRoom& device : shortage.devices) {
    rooms.push_back(absl::StrCat(FormatBytes(std::max<int64_t>(FreeBytes(device, placed), 0)),
                                 " of ", FormatBytes(device.total_bytes), " free on ",
                                 device.name));
  }
  const std::string pinned = PinnedOn(shortage.devices, placed);
  std::string message =
      absl::StrCat(request.model_name, " ", shortage.needs, " in ", request.spec.dtype, " with ",
                   context, " tokens of context, ", absl::StrJoin(rooms, ", "));
  if (!pinned.empty()) absl::StrAppend(&message, ", pinned there: ", pinned);
  const DeviceRoom& where = shortage.devices.front();
  return Error(Reason::kInsufficientDeviceMemory, message,
               {{"required_bytes", std::to_string(shortage.required_bytes)},
                {"free_bytes", std::to_string(std::max<int64_t>(FreeBytes(where, placed), 0))},
                {"where", where.name},
                {"pinned", pinned}});
}

// A map by modules.
absl::StatusOr<Placement> PlaceByMap(const PlacementRequest& request, const Inspection& inspection,
                                     const ContextRange& range,
                                     const std::vector<DeviceRoom>& devices,
                                     const std::vector<PlacedModel>& placed) {
  ASSIGN_OR_RETURN(const auto entries, WithDevices(request.spec.device_map_entries, devices));
  ASSIGN_OR_RETURN(const DeviceMap map,
                   ReadDeviceMap(entries, inspection.modules, inspection.num_layers));
  const Ways ways(request, inspection, range);
  const std::vector<std::string> used = map.Devices();
  const Way way = used.size() > 1
                      ? ways.By(map, devices)
                      : ways.OnOne(*std::ranges::find(devices, used.front(), &DeviceRoom::name));
  if (auto found = PlaceBy(request, way, range, placed)) return *std::move(found);
  Shortage shortage;
  std::vector<std::string> needs;
  for (const auto& [name, need] :
       NeedsOf(inspection, request.spec.dtype, map, FreeOf(way, placed))) {
    const DeviceRoom& device = *std::ranges::find(way.devices, name, &DeviceRoom::name);
    const int64_t required =
        used.size() > 1 ? need.At(range.least)
                        : RequiredBytes(inspection, request.spec.dtype, device.kind, range.least);
    needs.push_back(absl::StrCat(FormatBytes(required), " on ", name));
    const bool lacks = required > FreeBytes(device, placed);
    if (!lacks || shortage.required_bytes > 0) {
      shortage.devices.push_back(device);
    } else {
      shortage.devices.insert(shortage.devices.begin(), device);
      shortage.required_bytes = required;
    }
  }
  shortage.needs = absl::StrCat("needs ", absl::StrJoin(needs, " and "));
  return Insufficient(request, shortage, range.least, placed);
}

}  // namespace

int64_t WorkspaceBytes(const Inspection& inspection, const std::string& kind) {
  return EngineBytes(kind) + inspection.pass_bytes + inspection.logits_bytes;
}

int64_t RequiredBytes(const Inspection& inspection, const std::string& dtype,
                      const std::string& kind, int64_t max_context) {
  const std::string effective = EffectiveDtype(dtype, {{"", kind, 0}});
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
  if (!request.spec.device_map_entries.empty()) {
    return PlaceByMap(request, inspection, range, devices, placed);
  }
  ASSIGN_OR_RETURN(const std::vector<DeviceRoom> candidates,
                   Candidates(request.spec.device_map, devices, placed));
  const Ways ways(request, inspection, range);
  if (auto found = PlaceAnywhere(request, ways, range, candidates, placed)) {
    return *std::move(found);
  }
  const int64_t required =
      RequiredBytes(inspection, request.spec.dtype, candidates.front().kind, range.least);
  return Insufficient(request,
                      {absl::StrCat("needs ", FormatBytes(required)), candidates, required},
                      range.least, placed);
}

}  // namespace modeld
