// What placement gives an engine for a model is what the engine's own plan needs of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "server/core/device_map.h"
#include "server/engine/models/memory_plan.h"
#include "server/engine/weights/inspect.h"
#include "server/engines/layer_split.h"
#include "server/engines/placement.h"
#include "tests/engine/models/golden.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

constexpr char kLlama70B[] = R"({"model_type":"llama","architectures":["LlamaForCausalLM"],
    "hidden_size":8192,"intermediate_size":28672,"num_hidden_layers":80,"num_attention_heads":64,
    "num_key_value_heads":8,"vocab_size":128256,"max_position_embeddings":8192})";
constexpr char kDeepseekV3[] = R"({"model_type":"deepseek_v3",
    "architectures":["DeepseekV3ForCausalLM"],"hidden_size":7168,"intermediate_size":18432,
    "moe_intermediate_size":2048,"num_hidden_layers":61,"num_attention_heads":128,
    "num_key_value_heads":128,"n_routed_experts":256,"n_shared_experts":1,"num_experts_per_tok":8,
    "n_group":8,"topk_group":4,"first_k_dense_replace":3,"q_lora_rank":1536,"kv_lora_rank":512,
    "qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,"vocab_size":129280,
    "max_position_embeddings":4096})";

struct Named {
  std::string name;
  std::string config_json;
};

std::vector<Named> Configurations() {
  std::vector<Named> all = {{"llama-70b", kLlama70B}, {"deepseek-v3", kDeepseekV3}};
  std::vector<std::string> names = GoldenNames();
  names.insert(names.end(), {"tiny-bert", "tiny-mpnet", "tiny-modernbert", "tiny-nomic-bert"});
  for (const std::string& name : names) {
    std::ifstream stream(TinyRepository(name) + "/config.json");
    all.push_back({name, {std::istreambuf_iterator<char>(stream), {}}});
  }
  return all;
}

// The first half of the layers on one device, the others and the head on the other one.
DeviceMap Halves(const Inspection& inspection) {
  DeviceMap map = DeviceMap::Whole("cpu:0", inspection.num_layers);
  for (int64_t layer = inspection.num_layers / 2; layer < inspection.num_layers; ++layer) {
    map.layers[static_cast<size_t>(layer)] = "cpu:1";
  }
  map.norm = map.head = "cpu:1";
  return map;
}

TEST(BudgetTest, PlacementGivesWhatTheEngineAsksFor) {
  const std::vector<SplitDevice> devices = {{"cpu:0", "cpu", 0}, {"cpu:1", "cpu", 0}};
  for (const auto& [name, config_json] : Configurations()) {
    SCOPED_TRACE(name);
    const auto config = ReadArchitectureConfig(config_json);
    ASSERT_THAT(config, IsOk());
    const Inspection inspection = Inspect({.config_json = config_json});
    const int64_t context = std::min<int64_t>(inspection.max_context, 4096);
    for (const auto& [dtype, element_bytes] : {std::pair{"bfloat16", 2}, {"float32", 4}}) {
      MemoryRequest request = {
          .map = Halves(inspection), .element_bytes = element_bytes, .max_context = context};
      for (const auto& [device, need] : NeedsOf(inspection, dtype, request.map, devices)) {
        request.budget_bytes[device] = need.At(context);
      }
      EXPECT_THAT(PlanMemory(*config, request), IsOk());

      request.map = DeviceMap::Whole("cpu:0", inspection.num_layers);
      request.budget_bytes["cpu:0"] = RequiredBytes(inspection, dtype, "cpu", context);
      EXPECT_THAT(PlanMemory(*config, request), IsOk());
    }
  }
}

// Beside the 64 MiB that an engine takes in any case.
TEST(BudgetTest, BothCountALargeModelToTheByte) {
  const Inspection inspection = Inspect({.config_json = kLlama70B});
  const auto config = ReadArchitectureConfig(kLlama70B);
  ASSERT_THAT(config, IsOk());
  const int64_t required = RequiredBytes(inspection, "bfloat16", "cpu", 4096);
  MemoryRequest request = {.map = DeviceMap::Whole("cpu", 80),
                           .budget_bytes = {{"cpu", required - EngineBytes("cpu")}},
                           .element_bytes = 2,
                           .max_context = 4096};

  EXPECT_THAT(PlanMemory(*config, request), IsOk());
  request.budget_bytes["cpu"] -= 1;
  EXPECT_THAT(PlanMemory(*config, request), HasReasonOf(Reason::kInsufficientDeviceMemory));
}

}  // namespace
}  // namespace modeld
