// Models that are divided over several devices.
#include "server/engines/layer_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/engines/placement.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Key;
using testing::Pair;
using testing::UnorderedElementsAre;

constexpr int64_t kMiB = 1 << 20;

// Layers of 100 MiB with 1 MiB for 64 tokens each, an embedding and a head of 50 MiB.
Inspection Model(int64_t layers) {
  Inspection model;
  model.supported = true;
  model.num_layers = layers;
  model.max_context = 8192;
  model.modules = {.embedding = {"model.embed_tokens"},
                   .layer = "model.layers.",
                   .norm = {"model.norm"},
                   .head = {"lm_head"}};
  model.pass_bytes = 10 * kMiB;
  model.logits_bytes = 5 * kMiB;
  for (const auto& [dtype, times] : {std::pair{"bfloat16", 1}, {"float16", 1}, {"float32", 2}}) {
    const auto count = static_cast<size_t>(layers);
    model.layer_bytes[dtype].assign(count, times * 100 * kMiB);
    model.layer_kv_bytes_per_token[dtype].assign(count, times * kMiB / 64);
    model.embedding_bytes[dtype] = times * 50 * kMiB;
    model.norm_bytes[dtype] = times;
    model.head_bytes[dtype] = times * 50 * kMiB;
    model.weights_bytes[dtype] = times * ((100 * layers + 100) * kMiB + 1);
    model.kv_bytes_per_token[dtype] = times * layers * kMiB / 64;
  }
  return model;
}

void TieHead(Inspection& model) {
  model.modules.tied_head = true;
  for (auto& [dtype, bytes] : model.weights_bytes) bytes -= model.head_bytes[dtype];
}

DeviceRoom Cpu(const std::string& name, int64_t mib) { return {name, "cpu", mib * kMiB, 0}; }
DeviceRoom Gpu(int index, int64_t mib) {
  return {absl::StrCat("cuda:", index), "cuda", mib * kMiB, 0};
}
PlacedModel Placed(const std::string& name, const std::string& device, int64_t mib,
                   int64_t used_at) {
  return {.model_name = name,
          .budget_bytes = {{device, mib * kMiB}},
          .ready = true,
          .last_used_ns = used_at};
}
PlacementRequest Want(LoadSpec spec = {}) { return {.model_name = "new", .spec = std::move(spec)}; }

// The map that the engine would read of a placement.
DeviceMap MapOf(const Placement& placement, const Inspection& model) {
  const auto map = ReadDeviceMap(placement.device_map_entries, model.modules, model.num_layers);
  EXPECT_THAT(map, IsOk());
  return map.value_or(DeviceMap());
}

TEST(LayerSplitTest, OneDeviceIsPreferredWhereItFits) {
  const auto placement =
      Place(Want(), Model(4), {Cpu("cpu", 9000), Gpu(0, 3000), Gpu(1, 3000)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->budget_bytes, ElementsAre(Key("cuda:0")));
  EXPECT_THAT(placement->device_map_entries, IsEmpty());
}

TEST(LayerSplitTest, LayersGoToTheGpuWithTheMostRoomFirst) {
  const Inspection model = Model(20);  // 2,100 MiB

  const auto placement = Place(Want({.max_context = 256}), model,
                               {Cpu("cpu", 90'000), Gpu(0, 1800), Gpu(1, 2200)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->budget_bytes, UnorderedElementsAre(Key("cuda:0"), Key("cuda:1")));
  const DeviceMap map = MapOf(*placement, model);
  EXPECT_EQ(map.embedding, "cuda:1");
  EXPECT_EQ(map.layers.front(), "cuda:1");
  EXPECT_EQ(map.layers.back(), "cuda:0");
  EXPECT_EQ(map.head, "cuda:0");
  // 768 of an engine, 10 of a pass, 50 of the embedding, then layers of 104 with their keys.
  EXPECT_EQ(std::ranges::count(map.layers, "cuda:1"), (2200 - 828) / 104);
}

TEST(LayerSplitTest, WhatGpusDoNotHoldGoesToTheCpu) {
  const Inspection model = Model(40);

  const auto placement = Place(Want({.max_context = 256}), model,
                               {Cpu("cpu", 90'000), Gpu(0, 2000), Gpu(1, 1900)}, {});

  ASSERT_THAT(placement, IsOk());
  const DeviceMap map = MapOf(*placement, model);
  EXPECT_THAT(map.Devices(), ElementsAre("cuda:0", "cuda:1", "cpu"));
  EXPECT_EQ(map.head, "cpu");
}

TEST(LayerSplitTest, WithoutRoomForALayerOnAnyGpuTheCpuHasItAlone) {
  const auto placement = Place(Want(), Model(10), {Cpu("cpu", 90'000), Gpu(0, 800)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->budget_bytes, ElementsAre(Key("cpu")));
}

TEST(LayerSplitTest, TwoBudgetsOfTheCpuHoldWhatOneDoesNot) {
  const Inspection model = Model(10);

  for (const char* map : {"auto", "cpu"}) {
    const auto placement =
        Place(Want({.device_map = map}), model, {Cpu("cpu:0", 900), Cpu("cpu:1", 1000)}, {});

    ASSERT_THAT(placement, IsOk());
    EXPECT_THAT(MapOf(*placement, model).Devices(), ElementsAre("cpu:1", "cpu:0"));
    EXPECT_GE(placement->max_context, 256);
  }
}

TEST(LayerSplitTest, ATiedHeadStaysWithTheEmbedding) {
  Inspection model = Model(10);
  TieHead(model);

  const auto placement = Place(Want(), model, {Cpu("cpu:0", 900), Cpu("cpu:1", 1000)}, {});

  ASSERT_THAT(placement, IsOk());
  const DeviceMap map = MapOf(*placement, model);
  EXPECT_EQ(map.head, map.embedding);
  EXPECT_NE(map.layers.back(), map.embedding);
}

TEST(LayerSplitTest, Float16CountsAsFloat32WhereTheCpuTakesPart) {
  const Inspection model = Model(10);  // 1,100 MiB, 2,200 in float32

  EXPECT_THAT(Place(Want({.dtype = "float16"}), model, {Cpu("cpu:0", 900), Cpu("cpu:1", 1000)}, {}),
              HasReasonOf(Reason::kInsufficientDeviceMemory));
  EXPECT_THAT(Place(Want({.dtype = "float16"}), model, {Gpu(0, 1600), Gpu(1, 1700)}, {}), IsOk());
}

TEST(LayerSplitTest, AMapByModulesIsTakenAsItIs) {
  const Inspection model = Model(4);
  LoadSpec spec{.device_map = "",
                .device_map_entries = {{"", "cuda"}, {"model.layers.2", "cpu:1"}},
                .max_context = 256};

  const auto placement =
      Place(Want(spec), model, {Cpu("cpu:0", 5000), Cpu("cpu:1", 5000), Gpu(0, 9000)}, {});

  ASSERT_THAT(placement, IsOk());
  const DeviceMap map = MapOf(*placement, model);
  EXPECT_THAT(map.layers, ElementsAre("cuda:0", "cuda:0", "cpu:1", "cuda:0"));
  EXPECT_THAT(placement->budget_bytes,
              ElementsAre(Pair("cpu:1", (64 + 10 + 100 + 4) * kMiB),
                          Pair("cuda:0", (768 + 10 + 5 + 100 + 3 * 104) * kMiB + 1)));
}

TEST(LayerSplitTest, BadMapsAreRefusedWithTheNames) {
  const auto place = [](std::map<std::string, std::string> entries) {
    const LoadSpec spec{.device_map = "", .device_map_entries = std::move(entries)};
    return Place(Want(spec), Model(2), {Cpu("cpu:0", 5000), Cpu("cpu:1", 5000)}, {});
  };

  const auto unknown = place({{"", "cpu:0"}, {"lm_head", "cpu:2"}});
  const auto missing = place({{"model.embed_tokens", "cpu:0"}, {"model.layers.0", "cpu:1"}});

  ASSERT_THAT(unknown, NamesField("device_map_entries"));
  EXPECT_THAT(std::string(unknown.status().message()),
              AllOf(HasSubstr("cpu:2"), HasSubstr("cpu:0, cpu:1")));
  ASSERT_THAT(missing, NamesField("device_map_entries"));
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("model.layers.1"));
}

TEST(LayerSplitTest, AMapThatDoesNotFitIsRefusedWithTheFiguresOfEachDevice) {
  const LoadSpec spec{.device_map = "",
                      .device_map_entries = {{"", "cpu:0"}, {"model.layers.1", "cpu:1"}}};

  const auto placement = Place(Want(spec), Model(2), {Cpu("cpu:0", 5000), Cpu("cpu:1", 150)}, {});

  ASSERT_THAT(placement, HasReasonOf(Reason::kInsufficientDeviceMemory));
  EXPECT_THAT(std::string(placement.status().message()),
              AllOf(HasSubstr("on cpu:0 and"), HasSubstr("on cpu:1"), HasSubstr("free on cpu:1")));
  const ErrorDetails details = DetailsOf(placement.status());
  EXPECT_EQ(details.metadata.at("where"), "cpu:1");
  EXPECT_EQ(details.metadata.at("required_bytes"), std::to_string((64 + 10 + 104) * kMiB));
  EXPECT_EQ(details.metadata.at("free_bytes"), std::to_string(150 * kMiB));
}

TEST(LayerSplitTest, WhatFitsNowhereIsRefusedWithTheFiguresOfEachDevice) {
  const auto placement = Place(Want(), Model(10), {Cpu("cpu:0", 400), Cpu("cpu:1", 500)}, {});

  ASSERT_THAT(placement, HasReasonOf(Reason::kInsufficientDeviceMemory));
  EXPECT_THAT(std::string(placement.status().message()),
              AllOf(HasSubstr("free on cpu:0"), HasSubstr("free on cpu:1")));
}

TEST(LayerSplitTest, OthersGoFromAllDevicesOfADivision) {
  const auto placement = Place(Want(), Model(10), {Cpu("cpu:0", 900), Cpu("cpu:1", 1000)},
                               {Placed("tiny", "cpu:0", 1, 1), Placed("first", "cpu:0", 700, 2),
                                Placed("second", "cpu:1", 700, 3)});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->evict, UnorderedElementsAre("first", "second"));
}

// A model of random sizes on random devices.
struct Case {
  Inspection model;
  std::vector<DeviceRoom> devices;
  LoadSpec spec;
};

Case RandomCase(uint32_t seed) {
  std::mt19937 random(seed);
  const auto up_to = [&](int64_t max) {
    return std::uniform_int_distribution<int64_t>(0, max)(random);
  };
  Case made;
  made.model = Model(1 + up_to(30));
  std::vector<int64_t> layers;
  std::vector<int64_t> kv;  // some layers keep nothing, as recurrent ones do
  for (int64_t layer = 0; layer < made.model.num_layers; ++layer) {
    layers.push_back(up_to(200) * kMiB);
    kv.push_back(up_to(2) * kMiB / 64);
  }
  const int64_t embedding = up_to(300) * kMiB;
  for (const auto& [dtype, times] : {std::pair{"bfloat16", 1}, {"float16", 1}, {"float32", 2}}) {
    const auto scaled = [&, times = times](std::vector<int64_t> all) {
      for (int64_t& bytes : all) bytes *= times;
      return all;
    };
    made.model.layer_bytes[dtype] = scaled(layers);
    made.model.layer_kv_bytes_per_token[dtype] = scaled(kv);
    made.model.kv_bytes_per_token[dtype] =
        times * std::accumulate(kv.begin(), kv.end(), int64_t{0});
    made.model.embedding_bytes[dtype] = made.model.head_bytes[dtype] = times * embedding;
    made.model.weights_bytes[dtype] =
        times * (std::accumulate(layers.begin(), layers.end(), int64_t{0}) + 2 * embedding) +
        made.model.norm_bytes[dtype];
  }
  for (int64_t layer = 0; layer < made.model.num_layers; ++layer) {
    made.model.layer_state_bytes.push_back(up_to(1) * kMiB);
    made.model.state_bytes_per_sequence += made.model.layer_state_bytes.back();
  }
  if (up_to(1) == 1) TieHead(made.model);
  const int64_t gpus = up_to(4);
  for (int64_t gpu = 0; gpu < gpus; ++gpu) {
    made.devices.push_back(Gpu(static_cast<int>(gpu), 500 + up_to(3000)));
  }
  const int64_t cpus = 1 + up_to(2);
  for (int64_t cpu = 0; cpu < cpus; ++cpu) {
    made.devices.push_back(Cpu(absl::StrCat("cpu:", cpu), up_to(3000)));
  }
  constexpr const char* kDtypes[] = {"bfloat16", "float16", "float32"};
  made.spec.dtype = kDtypes[up_to(2)];
  if (up_to(1) == 1) made.spec.max_context = 1 + up_to(8000);
  return made;
}

// Layers follow each other on each device: no device is come back to.
bool IsContiguous(const DeviceMap& map) {
  std::vector<std::string> runs = map.layers;
  runs.erase(std::unique(runs.begin(), runs.end()), runs.end());
  std::ranges::sort(runs);
  return std::ranges::adjacent_find(runs) == runs.end();
}

TEST(LayerSplitTest, NoPlacementGoesBeyondWhatIsThere) {
  int divided = 0;
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    const Case made = RandomCase(seed);
    const auto placement = Place(Want(made.spec), made.model, made.devices, {});
    if (!placement.ok()) {
      EXPECT_THAT(placement, HasReasonOf(Reason::kInsufficientDeviceMemory));
      continue;
    }
    for (const auto& [name, bytes] : placement->budget_bytes) {
      const auto device = std::ranges::find(made.devices, name, &DeviceRoom::name);
      ASSERT_NE(device, made.devices.end());
      EXPECT_LE(bytes, device->total_bytes) << name;
    }
    EXPECT_GE(placement->max_context, made.spec.max_context > 0 ? made.spec.max_context : 256);
    if (placement->budget_bytes.size() == 1) continue;
    ++divided;
    const DeviceMap map = MapOf(*placement, made.model);
    EXPECT_EQ(std::ssize(map.layers), made.model.num_layers);
    EXPECT_TRUE(IsContiguous(map));
    std::vector<std::string> used = map.Devices();
    std::ranges::sort(used);
    std::vector<std::string> paid;
    for (const auto& [name, bytes] : placement->budget_bytes) paid.push_back(name);
    EXPECT_EQ(used, paid) << "a budget for each device that is used, and for no other";
    EXPECT_EQ(map.head == map.embedding || !made.model.modules.tied_head, true);
  }
  EXPECT_GT(divided, 300);
}

// What is refused with room on several devices could not have been divided in their order either:
// tried layer by layer, by every number of layers on the first of two devices.
TEST(LayerSplitTest, WhatIsRefusedOnTwoDevicesFitsInNoDivision) {
  int refused = 0;
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    SCOPED_TRACE(seed);
    Case made = RandomCase(seed);
    made.devices = {Cpu("cpu:0", 200 + seed % 700), Cpu("cpu:1", 150 + seed % 900)};
    std::ranges::stable_sort(made.devices, std::greater(), &DeviceRoom::total_bytes);
    if (Place(Want(made.spec), made.model, made.devices, {}).ok()) continue;
    ++refused;
    std::vector<SplitDevice> free;
    for (const DeviceRoom& device : made.devices) {
      free.push_back({device.name, device.kind, device.total_bytes});
    }
    for (int64_t first = 0; first <= made.model.num_layers; ++first) {
      DeviceMap map = DeviceMap::Whole(free[1].name, made.model.num_layers);
      map.embedding = free[0].name;
      if (made.model.modules.tied_head) map.norm = map.head = map.embedding;
      for (int64_t layer = 0; layer < first; ++layer) map.layers[layer] = free[0].name;
      const DeviceNeeds needs = NeedsOf(made.model, made.spec.dtype, map, free);
      const int64_t least = made.spec.max_context > 0 ? made.spec.max_context : 256;
      EXPECT_LT(ContextWithin(needs, free, 8192).value_or(-1), least) << first;
    }
  }
  EXPECT_GT(refused, 300);
}

}  // namespace
}  // namespace modeld
