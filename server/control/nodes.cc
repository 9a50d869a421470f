#include "server/control/nodes.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "server/base/status.h"

namespace modeld {
namespace {

using nlohmann::json;

// Other versions of this program write these columns too, so that nothing in them is certain.
template <typename T>
T Value(const json& object, const char* key, T otherwise) {
  try {
    return object.value(key, otherwise);
  } catch (const json::exception&) {
    return otherwise;
  }
}

json ParseArray(const std::string& text) {
  json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return parsed.is_array() ? parsed : json::array();
}

std::string CachesJson(const std::vector<NamedCache>& caches) {
  json out = json::array();
  for (const NamedCache& cache : caches) {
    out.push_back({{"name", cache.name},
                   {"path", cache.summary.cache_path},
                   {"free_bytes", cache.summary.filesystem.free_bytes}});
  }
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string DevicesJson(const std::vector<DeviceInfo>& devices) {
  json out = json::array();
  for (const DeviceInfo& device : devices) {
    out.push_back({{"name", device.name},
                   {"kind", device.kind},
                   {"product", device.product},
                   {"uuid", device.uuid},
                   {"total_bytes", device.total_bytes},
                   {"used_bytes", device.used_bytes},
                   {"free_bytes", device.total_bytes - device.used_bytes},
                   {"foreign_bytes", device.foreign_bytes},
                   {"model_bytes", device.model_bytes}});
  }
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::vector<DeviceInfo> DevicesFromJson(const std::string& text) {
  std::vector<DeviceInfo> devices;
  for (const json& in : ParseArray(text)) {
    if (!in.is_object()) continue;
    DeviceInfo device;
    device.name = Value(in, "name", std::string());
    device.kind = Value(in, "kind", std::string());
    device.product = Value(in, "product", std::string());
    device.uuid = Value(in, "uuid", std::string());
    device.total_bytes = Value(in, "total_bytes", int64_t{0});
    device.used_bytes = Value(in, "used_bytes", int64_t{0});
    device.foreign_bytes = Value(in, "foreign_bytes", int64_t{0});
    device.model_bytes = Value(in, "model_bytes", std::map<std::string, int64_t>());
    devices.push_back(std::move(device));
  }
  return devices;
}

}  // namespace

void Nodes::SetAddress(const std::string& address) {
  MutexLock lock(mutex_);
  address_ = address;
}

absl::Status Nodes::Heartbeat() {
  Node node;
  node.node_id = options_.node_id;
  node.name = options_.node_name;
  {
    MutexLock lock(mutex_);
    node.address = address_;
  }
  node.caches_json = CachesJson(parts_.registry.ConfiguredRoom());
  node.devices_json = DevicesJson(parts_.engines.Devices());
  return parts_.tables.nodes.Heartbeat(node);
}

absl::StatusOr<std::vector<NodeView>> Nodes::List() {
  ASSIGN_OR_RETURN(const std::vector<Node> nodes, parts_.tables.nodes.List());
  std::vector<NodeView> views;
  for (const Node& node : nodes) {
    NodeView view{.node = node};
    for (const json& in : ParseArray(node.caches_json)) {
      if (!in.is_object()) continue;
      view.caches.push_back({.name = Value(in, "name", std::string()),
                             .path = Value(in, "path", std::string()),
                             .free_bytes = Value(in, "free_bytes", int64_t{0})});
    }
    views.push_back(std::move(view));
  }
  return views;
}

absl::StatusOr<std::vector<NodeDevice>> Nodes::ListDevices() {
  ASSIGN_OR_RETURN(const std::vector<Node> nodes, parts_.tables.nodes.List());
  std::vector<NodeDevice> devices;
  for (const Node& node : nodes) {
    if (node.node_id == options_.node_id) continue;
    for (DeviceInfo& device : DevicesFromJson(node.devices_json)) {
      devices.push_back({node.name, std::move(device)});
    }
  }
  for (DeviceInfo& device : parts_.engines.Devices()) {
    devices.push_back({options_.node_name, std::move(device)});
  }
  std::ranges::sort(devices, {}, [](const NodeDevice& device) {
    return std::pair(device.node_name, device.device.name);
  });
  return devices;
}

absl::StatusOr<std::vector<NodeInstance>> Nodes::ListInstances() {
  ASSIGN_OR_RETURN(const std::vector<Node> nodes, parts_.tables.nodes.List());
  std::map<std::string, std::string> names;
  for (const Node& node : nodes) names[node.node_id] = node.name;
  ASSIGN_OR_RETURN(const std::vector<Instance> rows, parts_.tables.instances.List());
  std::vector<NodeInstance> instances;
  for (const Instance& row : rows) {
    if (row.node_id == options_.node_id) continue;
    const auto name = names.find(row.node_id);
    instances.push_back({name == names.end() ? row.node_id : name->second, row});
  }
  for (Instance& instance : parts_.engines.List()) {
    instances.push_back({options_.node_name, std::move(instance)});
  }
  std::ranges::sort(instances, {}, [](const NodeInstance& instance) {
    return std::pair(instance.instance.model_name, instance.node_name);
  });
  return instances;
}

}  // namespace modeld
