#include "server/core/device_map.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

using Entries = std::map<std::string, std::string>;

constexpr char kField[] = "device_map_entries";
constexpr char kUsualLayer[] = "model.layers.";
constexpr size_t kNamesShownMax = 8;

// Whether `module` is `name` or lies below it.
bool Holds(std::string_view name, std::string_view module) {
  if (name.empty() || name == module) return true;
  return module.size() > name.size() && module[name.size()] == '.' && module.starts_with(name);
}

// A part by the names of its modules, of which each has one or two.
struct Part {
  std::vector<std::vector<std::string>> modules;
};

// The device of the longest name that holds a module.
std::optional<std::string> DeviceOf(const Entries& entries,
                                    const std::vector<std::string>& module) {
  const Entries::value_type* best = nullptr;
  for (const Entries::value_type& entry : entries) {
    const bool holds =
        std::ranges::any_of(module, [&](const auto& name) { return Holds(entry.first, name); });
    if (holds && (best == nullptr || entry.first.size() > best->first.size())) best = &entry;
  }
  return best == nullptr ? std::nullopt : std::optional(best->second);
}

// The entries of one map, read part by part.
class Reader {
 public:
  explicit Reader(const Entries& entries) : entries_(entries) {}

  // The device of `part`; `otherwise` where it has no modules or no device.
  std::string Read(const Part& part, const std::optional<std::string>& otherwise) {
    std::string device = otherwise.value_or("");
    for (size_t i = 0; i < part.modules.size(); ++i) {
      const std::vector<std::string>& module = part.modules[i];
      const std::optional<std::string> found = DeviceOf(entries_, module);
      if (!found && !otherwise) missing_.push_back(module.front());
      const std::string here = found.value_or(device);
      if (i == 0) {
        device = here;
      } else if (here != device) {
        divided_.push_back(absl::StrCat(module.front(), " is to be on ", here, " and ",
                                        part.modules[0].front(), " on ", device));
      }
      for (const auto& [name, inner] : entries_) {
        const bool is_inside = std::ranges::any_of(
            module, [&](const auto& m) { return name.size() > m.size() && Holds(m, name); });
        if (is_inside && inner != device) {
          divided_.push_back(absl::StrCat(name, " is to be on ", inner, " and ", module.front(),
                                          " on ", device.empty() ? "none" : device));
        }
      }
    }
    return device;
  }

  absl::Status status() const {
    if (!missing_.empty()) return InvalidField(kField, "names no device for " + Shown(missing_));
    if (divided_.empty()) return absl::OkStatus();
    return InvalidField(kField, "divides what lies on one device: " + Shown(divided_));
  }

 private:
  static std::string Shown(const std::vector<std::string>& names) {
    const size_t shown = std::min(names.size(), kNamesShownMax);
    std::string text = absl::StrJoin(names.begin(), names.begin() + shown, ", ");
    if (names.size() > shown) absl::StrAppend(&text, " and ", names.size() - shown, " more");
    return text;
  }

  const Entries& entries_;
  std::vector<std::string> missing_;
  std::vector<std::string> divided_;
};

// The first of `names` goes by `usual` too.
Part PartOf(const std::vector<std::string>& names, const std::string& usual) {
  Part part;
  for (const std::string& name : names) part.modules.push_back({name});
  if (!names.empty() && names.front() != usual) part.modules.front().push_back(usual);
  return part;
}

Part LayerPart(const ModuleNames& modules, int64_t layer) {
  const std::string usual = absl::StrCat(kUsualLayer, layer);
  if (modules.layer.empty() || modules.layer == kUsualLayer) return {{{usual}}};
  return {{{absl::StrCat(modules.layer, layer), usual}}};
}

}  // namespace

bool IsDevice(std::string_view device) {
  if (device == "cpu" || device == "cuda") return true;
  const size_t colon = device.find(':');
  if (colon == std::string_view::npos) return false;
  const std::string_view kind = device.substr(0, colon);
  const std::string_view index = device.substr(colon + 1);
  return (kind == "cpu" || kind == "cuda") && !index.empty() && index.size() <= 3 &&
         std::ranges::all_of(index, [](char c) { return c >= '0' && c <= '9'; });
}

DeviceMap DeviceMap::Whole(const std::string& device, int64_t num_layers) {
  return {device, std::vector<std::string>(static_cast<size_t>(num_layers), device), device,
          device};
}

std::vector<std::string> DeviceMap::Devices() const {
  std::vector<std::string> devices = {embedding};
  const auto add = [&](const std::string& device) {
    if (std::ranges::find(devices, device) == devices.end()) devices.push_back(device);
  };
  for (const std::string& layer : layers) add(layer);
  add(norm);
  add(head);
  return devices;
}

std::map<std::string, std::string> DeviceMap::ToEntries() const {
  // What a model has beside the usual modules belongs to its embedding.
  Entries entries = {{"", embedding}, {"model.norm", norm}, {"lm_head", head}};
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    entries[absl::StrCat(kUsualLayer, layer)] = layers[layer];
  }
  return entries;
}

absl::StatusOr<DeviceMap> ReadDeviceMap(const Entries& entries, const ModuleNames& modules,
                                        int64_t num_layers) {
  Reader reader(entries);
  const std::string usual = "model.embed_tokens";
  DeviceMap map;
  const bool is_named = !modules.embedding.empty();
  map.embedding =
      reader.Read(PartOf(is_named ? modules.embedding : std::vector{usual}, usual), std::nullopt);
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    map.layers.push_back(reader.Read(LayerPart(modules, layer), std::nullopt));
  }
  const std::string& last = map.layers.empty() ? map.embedding : map.layers.back();
  const auto only_if = [](bool condition, const std::string& device) {
    return condition ? std::optional(device) : std::nullopt;
  };
  map.norm = reader.Read(PartOf(modules.norm, "model.norm"), only_if(modules.norm.empty(), last));
  const bool is_tied = modules.tied_head;
  map.head =
      reader.Read(PartOf(modules.head, "lm_head"),
                  only_if(modules.head.empty() || is_tied, is_tied ? map.embedding : map.norm));
  RETURN_IF_ERROR(reader.status());
  return map;
}

}  // namespace modeld
