#include "server/engine/models/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/kernels/paged_attention.h"
#include "server/engine/weights/architecture.h"
#include "server/engine/weights/model_parts.h"
#include "server/engine/weights/work_memory.h"

namespace modeld {
namespace {

// The pool never holds more than this many sequences of full length: a larger one would only keep
// memory from others.
constexpr int64_t kFullSequencesMax = 64;
// Nor does it hold more states of fixed size than sequences run at once.
constexpr int64_t kStateSlotsMax = 64;

// What is on one device, in bytes.
struct Share {
  int64_t budget = 0;
  int64_t weights = 0;
  int64_t workspace = 0;     // without copies of states
  int64_t block = 0;         // keys and values of 16 tokens
  int64_t slot = 0;          // states of a sequence
  int64_t slot_copies = 0;   // while a layer runs
  bool runs_layers = false;  // or embeds

  int64_t fixed() const { return weights + workspace; }
  int64_t sequence() const { return slot + slot_copies; }
};

class Shares {
 public:
  Shares(const ArchitectureConfig& config, const MemoryRequest& request) : map_(request.map) {
    for (const std::string& device : map_.Devices()) {
      shares_[device].budget = request.budget_bytes.at(device);
    }
    const int64_t element_bytes = request.element_bytes;
    for (const TensorShape& tensor : TensorsOf(config)) {
      OfTensor(tensor).weights += tensor.elements() * element_bytes;
    }
    if (config.tie_word_embeddings && !config.makes_vectors && map_.head != map_.embedding) {
      shares_[map_.head].weights += config.vocab_size * config.hidden_size * element_bytes;
    }
    shares_[map_.norm].weights += request.other_weights_bytes;
    shares_[map_.embedding].runs_layers = true;
    AddLayers(config, element_bytes);
    for (auto& [device, share] : shares_) {
      if (share.runs_layers) share.workspace += PassBytes(config);
      if (share.slot > 0) share.slot_copies = StateCopiesBytes(config);
    }
    shares_[map_.head].workspace += LogitsBytes(config);
  }

  const std::map<std::string, Share>& all() const { return shares_; }

 private:
  Share& OfTensor(const TensorShape& tensor) {
    switch (PartOf(tensor)) {
      case ModelPart::kLayer:
        return shares_[map_.layers[tensor.layer]];
      case ModelPart::kNorm:
        return shares_[map_.norm];
      case ModelPart::kHead:
        return shares_[map_.head];
      case ModelPart::kEmbedding:
        break;
    }
    return shares_[map_.embedding];
  }

  void AddLayers(const ArchitectureConfig& config, int64_t element_bytes) {
    const std::vector<KvShape> kv = KvShapes(config);
    const std::vector<int64_t> states = LayerStateBytes(config);
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      Share& share = shares_[map_.layers[layer]];
      share.runs_layers = true;
      share.slot += states[layer];
      if (kv.empty()) continue;
      const int64_t elements =
          kv[layer].heads * (kv[layer].key_dim + PaddedHeadDim(kv[layer].value_dim));
      share.block += elements * kKvBlockTokens * element_bytes;
    }
  }

  const DeviceMap map_;
  std::map<std::string, Share> shares_;
};

int64_t NeededContext(const ArchitectureConfig& config, const MemoryRequest& request) {
  return request.max_context > 0 ? request.max_context : std::min(kContextMin, config.max_context);
}

// Of a model that makes vectors: the layers' share is RowBytes() for each token of the longest
// text, on every device.
absl::StatusOr<MemoryPlan> PlanVectors(const ArchitectureConfig& config,
                                       const MemoryRequest& request) {
  const Shares shares(config, request);
  const int64_t row_bytes = RowBytes(config);
  const auto rows_for = [](int64_t tokens) { return std::max(tokens, kPassTokens); };
  MemoryPlan plan;
  plan.max_context = request.max_context > 0 ? request.max_context : config.max_context;
  const int64_t needed = NeededContext(config, request);
  for (const auto& [device, share] : shares.all()) {
    const int64_t rows = share.runs_layers ? rows_for(needed) : 0;
    const int64_t required = share.fixed() + rows * row_bytes;
    if (required > share.budget) {
      return InsufficientBytes(Reason::kInsufficientDeviceMemory, device, required, share.budget);
    }
    if (!share.runs_layers || request.max_context > 0) continue;
    plan.max_context = std::min(plan.max_context, (share.budget - share.fixed()) / row_bytes);
  }
  for (const std::string& device : request.map.Devices()) {
    const Share& share = shares.all().at(device);
    const int64_t rows = share.runs_layers ? rows_for(plan.max_context) : 0;
    plan.devices.push_back({.device = device,
                            .weights_bytes = share.weights,
                            .workspace_bytes = share.workspace + rows * row_bytes});
  }
  return plan;
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(const ArchitectureConfig& config,
                                      const MemoryRequest& request) {
  if (request.max_context > config.max_context) {
    return InvalidField("max_context", absl::StrFormat("is %d tokens, but the model has %d",
                                                       request.max_context, config.max_context));
  }
  if (config.makes_vectors) return PlanVectors(config, request);
  const Shares shares(config, request);
  const auto blocks_for = [](int64_t tokens) {
    return (tokens + kKvBlockTokens - 1) / kKvBlockTokens;
  };
  const int64_t needed = NeededContext(config, request);
  const int64_t context = request.max_context > 0 ? request.max_context : config.max_context;
  MemoryPlan plan;
  plan.kv_blocks = kFullSequencesMax * blocks_for(context);
  plan.state_slots = StateBytesPerSequence(config) > 0 ? kStateSlotsMax : 0;
  for (const auto& [device, share] : shares.all()) {
    const int64_t required = share.fixed() + share.sequence() + blocks_for(needed) * share.block;
    if (required > share.budget) {
      return InsufficientBytes(Reason::kInsufficientDeviceMemory, device, required, share.budget);
    }
    if (share.slot == 0) continue;
    const int64_t more = (share.budget - required) / 2 / share.sequence();
    plan.state_slots = std::min(plan.state_slots, 1 + more);
  }
  for (const auto& [device, share] : shares.all()) {
    if (share.block == 0) continue;
    const int64_t for_blocks = share.budget - share.fixed() - plan.state_slots * share.sequence();
    plan.kv_blocks = std::min(plan.kv_blocks, for_blocks / share.block);
  }
  plan.max_context = std::min(context, plan.kv_blocks * kKvBlockTokens);
  for (const std::string& device : request.map.Devices()) {
    const Share& share = shares.all().at(device);
    const int64_t slots = share.slot > 0 ? plan.state_slots : 0;
    plan.devices.push_back({.device = device,
                            .weights_bytes = share.weights,
                            .workspace_bytes = share.workspace + slots * share.slot_copies,
                            .kv_bytes = plan.kv_blocks * share.block,
                            .state_bytes = slots * share.slot});
  }
  return plan;
}

}  // namespace modeld
