#include "server/engine/models/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/kernels/paged_attention.h"
#include "server/engine/models/attention.h"
#include "server/engine/models/decoder.h"
#include "server/engine/models/recurrence.h"
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

// What is convolved and its copies; queries, keys and values of the recurrence, and what a row of a
// chunk is to the others.
int64_t RecurrentRow(const RecurrentConfig& recurrent) {
  const int64_t of_head = 2 * recurrent.key_dim + 3 * recurrent.value_dim + 4 * kChunkTokens;
  return 6 * recurrent.conv_channels + recurrent.heads * of_head;
}

// Matrices that are alive at once in a layer, in float32: the residual stream, the norm's copies,
// queries, keys and values with their turned copies, gate, up and their product; then the logits of
// one call of the head, rounded and exact.
int64_t WorkspaceBytes(const ArchitectureConfig& config) {
  // Queries of latent attention are as long as what is cached.
  const int64_t latent = config.latent.kv_rank + config.latent.rope_dim;
  const int64_t queries = config.attention_gate ? 2 * config.num_heads : config.num_heads;
  int64_t heads = config.num_heads * latent;
  int64_t inner = std::max(config.moe.intermediate_size, config.moe.shared_intermediate_size);
  for (const LayerConfig& layer : config.layers) {
    if (latent == 0) {
      heads = std::max(heads, (queries + 2 * layer.num_kv_heads) * layer.head_dim);
    }
    inner = std::max(inner, config.intermediate_size * (layer.wide_mlp ? 2 : 1));
  }
  const int64_t row = 6 * config.hidden_size + 3 * heads + 3 * inner +
                      RecurrentRow(config.recurrent) +
                      3 * config.num_layers * config.layer_input_size;
  return (kPassTokens * row + 2 * kHeadRows * config.vocab_size) * int64_t{sizeof(float)};
}

// Gate, up and their product, in float32.
int64_t FeedForwardBytes(const ArchitectureConfig& config) {
  const int64_t inner = std::max({config.intermediate_size, config.moe.intermediate_size,
                                  config.moe.shared_intermediate_size});
  return kPassTokens * 3 * inner * int64_t{sizeof(float)};
}

// Of a model that makes vectors: the layers' share is RowBytes() for each token of the longest
// text.
absl::StatusOr<MemoryPlan> PlanVectors(const ArchitectureConfig& config,
                                       const MemoryRequest& request) {
  // Scores, what is added to them, and their softmax.
  constexpr int64_t kScoreBytes = 4 * kScoresMax * int64_t{sizeof(float)};
  MemoryPlan plan;
  plan.weights_bytes = WeightsBytes(config, request.element_bytes) + request.other_weights_bytes;
  const int64_t fixed_bytes = plan.weights_bytes + FeedForwardBytes(config) + kScoreBytes;
  const auto rows_for = [](int64_t tokens) { return std::max(tokens, kPassTokens); };
  const int64_t needed_context =
      request.max_context > 0 ? request.max_context : std::min(kContextMin, config.max_context);
  const int64_t required_bytes = fixed_bytes + rows_for(needed_context) * RowBytes(config);
  if (required_bytes > request.budget_bytes) {
    return InsufficientBytes(Reason::kInsufficientDeviceMemory, request.device, required_bytes,
                             request.budget_bytes);
  }
  plan.max_context =
      request.max_context > 0
          ? request.max_context
          : std::min(config.max_context, (request.budget_bytes - fixed_bytes) / RowBytes(config));
  plan.workspace_bytes =
      fixed_bytes - plan.weights_bytes + rows_for(plan.max_context) * RowBytes(config);
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
  // A layer's part of it has copies while the layer runs.
  const int64_t copies_bytes =
      slot_bytes > 0 ? 3 * config.recurrent.state_elements() * int64_t{sizeof(float)} : 0;
  const int64_t sequence_bytes = slot_bytes + copies_bytes;
  const int64_t required_bytes =
      fixed_bytes + sequence_bytes + blocks_for(needed_context) * block_bytes;
  if (required_bytes > request.budget_bytes) {
    return InsufficientBytes(Reason::kInsufficientDeviceMemory, request.device, required_bytes,
                             request.budget_bytes);
  }
  const int64_t context = request.max_context > 0 ? request.max_context : config.max_context;
  if (slot_bytes > 0) {
    const int64_t more = (request.budget_bytes - required_bytes) / 2 / sequence_bytes;
    plan.state_slots = std::min(1 + more, kStateSlotsMax);
    plan.state_bytes = plan.state_slots * slot_bytes;
    plan.workspace_bytes += plan.state_slots * copies_bytes;
  }
  plan.kv_blocks = kFullSequencesMax * blocks_for(context);
  if (block_bytes > 0) {
    const int64_t for_blocks =
        request.budget_bytes - plan.weights_bytes - plan.workspace_bytes - plan.state_bytes;
    plan.kv_blocks = std::min(plan.kv_blocks, for_blocks / block_bytes);
  }
  plan.kv_bytes = plan.kv_blocks * block_bytes;
  plan.max_context = std::min(context, plan.kv_blocks * kKvBlockTokens);
  return plan;
}

}  // namespace modeld
