#include "server/engine/models/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/kernels/paged_attention.h"
#include "server/engine/models/decoder.h"
#include "server/engine/weights/architecture.h"

namespace modeld {
namespace {

// The pool never holds more than this many sequences of full length: a larger one would only keep
// memory from others.
constexpr int64_t kFullSequencesMax = 64;
// Nor does it hold more states of fixed size than sequences run at once.
constexpr int64_t kStateSlotsMax = 64;

int64_t WeightsBytes(const ArchitectureConfig& config, int64_t element_bytes) {
  int64_t elements = 0;
  for (const TensorShape& tensor : TensorsOf(config)) {
    elements += tensor.elements();
  }
  return elements * element_bytes;
}

// Matrices that are alive at once in a layer, in float32: the residual stream, the norm's copies,
// queries, keys and values with their turned copies, gate, up and their product; then the logits of
// one call of the head, rounded and exact.
int64_t WorkspaceBytes(const ArchitectureConfig& config) {
  // Queries of latent attention are as long as what is cached.
  const int64_t latent = config.latent.kv_rank + config.latent.rope_dim;
  const int64_t heads = latent > 0 ? config.num_heads * latent
                                   : (config.num_heads + 2 * config.num_kv_heads) * config.head_dim;
  const int64_t inner = std::max({config.intermediate_size, config.moe.intermediate_size,
                                  config.moe.shared_intermediate_size});
  const int64_t row =
      6 * config.hidden_size + 3 * heads + 3 * inner + 4 * config.recurrent.conv_channels;
  return (kPassTokens * row + 2 * kHeadRows * config.vocab_size) * int64_t{sizeof(float)};
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(const ArchitectureConfig& config,
                                      const MemoryRequest& request) {
  if (request.max_context > config.max_context) {
    return InvalidField("max_context", absl::StrFormat("is %d tokens, but the model has %d",
                                                       request.max_context, config.max_context));
  }
  MemoryPlan plan;
  plan.weights_bytes = WeightsBytes(config, request.element_bytes);
  plan.workspace_bytes = WorkspaceBytes(config);
  const int64_t block_bytes = KvPool::BlockBytes(config, request.element_bytes);
  const auto blocks_for = [](int64_t tokens) {
    return (tokens + kKvBlockTokens - 1) / kKvBlockTokens;
  };
  const int64_t needed_context =
      request.max_context > 0 ? request.max_context : std::min(kContextMin, config.max_context);
  const int64_t fixed_bytes = plan.weights_bytes + plan.workspace_bytes;
  const int64_t slot_bytes = StateBytesPerSequence(config);
  const int64_t required_bytes =
      fixed_bytes + slot_bytes + blocks_for(needed_context) * block_bytes;
  if (required_bytes > request.budget_bytes) {
    return InsufficientBytes(Reason::kInsufficientDeviceMemory, request.device, required_bytes,
                             request.budget_bytes);
  }
  const int64_t context = request.max_context > 0 ? request.max_context : config.max_context;
  if (slot_bytes > 0) {
    const int64_t more = (request.budget_bytes - required_bytes) / 2 / slot_bytes;
    plan.state_slots = std::min(1 + more, kStateSlotsMax);
    plan.state_bytes = plan.state_slots * slot_bytes;
  }
  plan.kv_blocks = kFullSequencesMax * blocks_for(context);
  if (block_bytes > 0) {
    plan.kv_blocks = std::min(
        plan.kv_blocks, (request.budget_bytes - fixed_bytes - plan.state_bytes) / block_bytes);
  }
  plan.kv_bytes = plan.kv_blocks * block_bytes;
  plan.max_context = std::min(context, plan.kv_blocks * kKvBlockTokens);
  return plan;
}

}  // namespace modeld
