#include "server/engines/layer_split.h"

#include <algorithm>
#include <numeric>

#include "server/base/status.h"

namespace modeld {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kSequences = 16;  // whose state beside the KV cache is counted

int64_t Of(const std::map<std::string, int64_t>& by_dtype, const std::string& dtype) {
  const auto found = by_dtype.find(dtype);
  return found == by_dtype.end() ? 0 : found->second;
}

int64_t OfLayer(const std::map<std::string, std::vector<int64_t>>& by_dtype,
                const std::string& dtype, size_t layer) {
  const auto found = by_dtype.find(dtype);
  return found == by_dtype.end() || layer >= found->second.size() ? 0 : found->second[layer];
}

// The figures of an inspection in one dtype.
class Sizes {
 public:
  Sizes(const Inspection& inspection, std::string dtype)
      : inspection_(inspection), dtype_(std::move(dtype)) {}

  DeviceNeed Layer(size_t layer) const {
    const std::vector<int64_t>& states = inspection_.layer_state_bytes;
    const int64_t state = layer < states.size() ? states[layer] : 0;
    return {OfLayer(inspection_.layer_bytes, dtype_, layer) + kSequences * state,
            OfLayer(inspection_.layer_kv_bytes_per_token, dtype_, layer)};
  }
  DeviceNeed Embedding() const { return {Of(inspection_.embedding_bytes, dtype_), 0}; }
  DeviceNeed Norm() const { return {Of(inspection_.norm_bytes, dtype_), 0}; }
  DeviceNeed Head(bool with_embedding) const {
    const int64_t weights =
        with_embedding && inspection_.modules.tied_head ? 0 : Of(inspection_.head_bytes, dtype_);
    return {weights + inspection_.logits_bytes, 0};
  }
  // Of a device that runs layers or embeds. Texts that become vectors pass through it whole.
  DeviceNeed Pass() const {
    return {inspection_.pass_bytes,
            inspection_.makes_vectors ? Of(inspection_.kv_bytes_per_token, dtype_) : 0};
  }

 private:
  const Inspection& inspection_;
  const std::string dtype_;
};

void Add(const DeviceNeed& more, DeviceNeed& to) {
  to.fixed += more.fixed;
  to.for_token += more.for_token;
}

// Devices that are filled in their order.
class Filling {
 public:
  Filling(const std::vector<SplitDevice>& devices, const DeviceNeed& pass, int64_t context)
      : devices_(devices), pass_(pass), context_(context) {}

  // The device that takes what needs so much; null when none is left that can. `runs`: layers or
  // the embedding.
  const std::string* Take(const DeviceNeed& need, bool runs) {
    for (; at_ < devices_.size(); ++at_, used_ = 0, has_pass_ = false) {
      int64_t used = used_ + need.At(context_);
      if (used_ == 0) used += EngineBytes(devices_[at_].kind);
      if (runs && !has_pass_) used += pass_.At(context_);
      if (used > devices_[at_].free_bytes) continue;
      used_ = used;
      has_pass_ |= runs;
      return &devices_[at_].name;
    }
    return nullptr;
  }

 private:
  const std::vector<SplitDevice>& devices_;
  const DeviceNeed pass_;
  const int64_t context_;
  size_t at_ = 0;
  int64_t used_ = 0;  // of that device; 0: nothing is there
  bool has_pass_ = false;
};

}  // namespace

std::string EffectiveDtype(const std::string& dtype, const std::vector<SplitDevice>& devices) {
  const bool has_cpu =
      std::ranges::any_of(devices, [](const SplitDevice& device) { return device.kind == "cpu"; });
  return has_cpu && dtype == "float16" ? "float32" : dtype;
}

int64_t EngineBytes(const std::string& kind) { return (kind == "cpu" ? 64 : 768) * kMiB; }

DeviceNeeds NeedsOf(const Inspection& inspection, const std::string& dtype, const DeviceMap& map,
                    const std::vector<SplitDevice>& devices) {
  const std::vector<std::string> used = map.Devices();
  std::vector<SplitDevice> found;
  for (const SplitDevice& device : devices) {
    if (std::ranges::find(used, device.name) != used.end()) found.push_back(device);
  }
  const Sizes sizes(inspection, EffectiveDtype(dtype, found));
  DeviceNeeds needs;
  for (const SplitDevice& device : found) needs[device.name].fixed = EngineBytes(device.kind);
  Add(sizes.Embedding(), needs[map.embedding]);
  for (size_t layer = 0; layer < map.layers.size(); ++layer) {
    Add(sizes.Layer(layer), needs[map.layers[layer]]);
  }
  for (auto& [name, need] : needs) {
    const bool runs =
        name == map.embedding || std::ranges::find(map.layers, name) != map.layers.end();
    if (runs) Add(sizes.Pass(), need);
  }
  Add(sizes.Norm(), needs[map.norm]);
  Add(sizes.Head(map.head == map.embedding), needs[map.head]);
  return needs;
}

std::optional<int64_t> ContextWithin(const DeviceNeeds& needs,
                                     const std::vector<SplitDevice>& devices, int64_t wanted) {
  int64_t context = wanted;
  for (const auto& [name, need] : needs) {
    const auto device = std::ranges::find(devices, name, &SplitDevice::name);
    MODELD_CHECK(device != devices.end(), "a need of a device that is not there");
    const int64_t left = device->free_bytes - need.fixed;
    if (left < 0) return std::nullopt;
    if (need.for_token > 0) context = std::min(context, left / need.for_token);
  }
  return context;
}

std::optional<DeviceMap> SplitLayers(const Inspection& inspection, const std::string& dtype,
                                     const std::vector<SplitDevice>& devices, int64_t context) {
  if (inspection.num_layers == 0) return std::nullopt;
  const Sizes sizes(inspection, EffectiveDtype(dtype, devices));
  Filling filling(devices, sizes.Pass(), context);
  const bool is_tied = inspection.modules.tied_head;
  DeviceNeed end = sizes.Norm();
  Add(sizes.Head(is_tied), end);
  DeviceNeed begin = sizes.Embedding();
  if (is_tied) Add(end, begin);
  const std::string* at = filling.Take(begin, true);
  if (at == nullptr) return std::nullopt;
  DeviceMap map = {.embedding = *at};
  for (int64_t layer = 0; layer < inspection.num_layers; ++layer) {
    at = filling.Take(sizes.Layer(static_cast<size_t>(layer)), true);
    if (at == nullptr) return std::nullopt;
    map.layers.push_back(*at);
  }
  if (!is_tied) at = filling.Take(end, false);
  if (at == nullptr) return std::nullopt;
  map.norm = is_tied ? map.embedding : *at;
  map.head = map.norm;
  return map;
}

}  // namespace modeld
