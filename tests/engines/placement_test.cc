#include "server/engines/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using testing::UnorderedElementsAre;

constexpr int64_t kMiB = 1 << 20;

// 1,000 MiB in bfloat16, 1 MiB for 16 tokens, 8,192 tokens at most; no activations, so that sums
// are easy.
Inspection SmallModel() {
  Inspection model;
  model.supported = true;
  model.weights_bytes = {
      {"bfloat16", 1000 * kMiB}, {"float16", 1000 * kMiB}, {"float32", 2000 * kMiB}};
  model.kv_bytes_per_token = {
      {"bfloat16", kMiB / 16}, {"float16", kMiB / 16}, {"float32", kMiB / 8}};
  model.max_context = 8192;
  return model;
}

DeviceRoom Cpu(int64_t mib) { return {"cpu", "cpu", mib * kMiB, 0}; }
DeviceRoom Gpu(int index, int64_t mib, int64_t foreign_mib = 0) {
  return {"cuda:" + std::to_string(index), "cuda", mib * kMiB, foreign_mib * kMiB};
}
PlacedModel Placed(const std::string& name, const std::string& device, int64_t mib,
                   int64_t used_at) {
  return {.model_name = name,
          .budget_bytes = {{device, mib * kMiB}},
          .ready = true,
          .last_used_ns = used_at};
}
PlacementRequest Want(LoadSpec spec = {}) { return {.model_name = "new", .spec = std::move(spec)}; }

TEST(PlacementTest, BudgetIsWeightsContextAndWorkspace) {
  const auto placement = Place(Want(), SmallModel(), {Cpu(4000)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_EQ(placement->max_context, 8192);
  EXPECT_THAT(placement->budget_bytes, ElementsAre(Pair("cpu", (1000 + 512 + 64) * kMiB)));
  EXPECT_THAT(placement->evict, IsEmpty());
}

TEST(PlacementTest, WorkspaceIsWhatTheInspectionSays) {
  Inspection model = SmallModel();
  const int64_t before = WorkspaceBytes(model, "cpu");
  model.pass_bytes = 1000;
  model.logits_bytes = 300;

  EXPECT_EQ(WorkspaceBytes(model, "cpu") - before, 1300);
  EXPECT_GT(WorkspaceBytes(model, "cuda"), WorkspaceBytes(model, "cpu"));
}

TEST(PlacementTest, Float16OnCpuCountsAsFloat32) {
  EXPECT_EQ(RequiredBytes(SmallModel(), "float16", "cpu", 16),
            RequiredBytes(SmallModel(), "float32", "cpu", 16));
  EXPECT_LT(RequiredBytes(SmallModel(), "float16", "cuda", 16),
            RequiredBytes(SmallModel(), "float32", "cuda", 16));
}

TEST(PlacementTest, DefaultContextShrinksToWhatFits) {
  const auto placement = Place(Want(), SmallModel(), {Cpu(1064 + 200)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_EQ(placement->max_context, 3200);
}

TEST(PlacementTest, DefaultContextShrinksTo256TokensAtTheLeast) {
  const auto least = Place(Want(), SmallModel(), {Cpu(1064 + 16)}, {});
  ASSERT_THAT(least, IsOk());
  EXPECT_EQ(least->max_context, 256);

  EXPECT_THAT(Place(Want(), SmallModel(), {Cpu(1064 + 15)}, {}),
              HasReasonOf(Reason::kInsufficientDeviceMemory));
}

TEST(PlacementTest, ModelWithLessThan256TokensKeepsItsOwn) {
  Inspection model = SmallModel();
  model.max_context = 128;

  const auto placement = Place(Want(), model, {Cpu(4000)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_EQ(placement->max_context, 128);
}

TEST(PlacementTest, AskedContextIsNeverReduced) {
  EXPECT_THAT(Place(Want({.max_context = 8000}), SmallModel(), {Cpu(1200)}, {}),
              HasReasonOf(Reason::kInsufficientDeviceMemory));
}

TEST(PlacementTest, ContextBeyondTheModelsIsRefused) {
  EXPECT_THAT(Place(Want({.max_context = 9000}), SmallModel(), {Cpu(9000)}, {}),
              NamesField("max_context"));
}

TEST(PlacementTest, AutoPrefersTheGpuWithTheMostRoom) {
  const auto placement =
      Place(Want(), SmallModel(),
            {Cpu(90'000), Gpu(0, 20'000), Gpu(1, 40'000), Gpu(2, 60'000, 50'000)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->budget_bytes, ElementsAre(Pair("cuda:1", testing::_)));
}

TEST(PlacementTest, AutoTakesTheCpuWhenNoGpuHasRoom) {
  const auto placement = Place(Want(), SmallModel(), {Cpu(90'000), Gpu(0, 1000)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->budget_bytes, ElementsAre(Pair("cpu", testing::_)));
}

TEST(PlacementTest, ForeignBytesAreNotFree) {
  EXPECT_THAT(Place(Want({.device_map = "cuda:0"}), SmallModel(), {Gpu(0, 80'000, 79'000)}, {}),
              HasReasonOf(Reason::kInsufficientDeviceMemory));
}

TEST(PlacementTest, NamedDeviceIsTheOnlyOneTried) {
  const auto placement = Place(Want({.device_map = "cuda:0"}), SmallModel(),
                               {Cpu(9000), Gpu(0, 8000), Gpu(1, 80'000)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->budget_bytes, ElementsAre(Pair("cuda:0", testing::_)));
}

TEST(PlacementTest, DeviceThatIsNotThereIsAnInvalidField) {
  for (const char* map : {"cuda", "cuda:3"}) {
    EXPECT_THAT(Place(Want({.device_map = map}), SmallModel(), {Cpu(9000)}, {}),
                NamesField("device_map"))
        << map;
  }
}

TEST(PlacementTest, MapOntoOneDeviceMeansThatDevice) {
  LoadSpec spec{.device_map = "", .device_map_entries = {{"model.layers.0", "cpu"}, {"", "cpu"}}};

  const auto placement = Place(Want(spec), SmallModel(), {Cpu(9000), Gpu(0, 80'000)}, {});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->budget_bytes, ElementsAre(Pair("cpu", testing::_)));
}

TEST(PlacementTest, LeastRecentlyUsedGoesFirstAndNoMoreThanNeeded) {
  const auto placement = Place(Want(), SmallModel(), {Cpu(5000)},
                               {Placed("old", "cpu", 1600, 1), Placed("newer", "cpu", 1600, 2),
                                Placed("newest", "cpu", 1600, 3)});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->evict, ElementsAre("old"));
}

TEST(PlacementTest, ModelWhoseGoingDoesNotHelpStays) {
  const auto placement = Place(Want(), SmallModel(), {Cpu(3000)},
                               {Placed("tiny", "cpu", 10, 1), Placed("big", "cpu", 2500, 2)});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->evict, ElementsAre("big"));
}

TEST(PlacementTest, NothingIsEvictedWhenThatWouldNotMakeItFit) {
  const auto placement =
      Place(Want({.max_context = 8192}), SmallModel(), {Cpu(1500)}, {Placed("old", "cpu", 700, 1)});

  EXPECT_THAT(placement, HasReasonOf(Reason::kInsufficientDeviceMemory));
}

TEST(PlacementTest, ContextOf2048IsWorthAnEviction) {
  const auto placement = Place(Want(), SmallModel(), {Cpu(2000)}, {Placed("old", "cpu", 900, 1)});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->evict, ElementsAre("old"));
  EXPECT_EQ(placement->max_context, 8192);
}

TEST(PlacementTest, PinnedAndUnreadyModelsStayAndAreNamed) {
  PlacedModel pinned = Placed("precious", "cpu", 900, 1);
  pinned.pinned = true;
  PlacedModel loading = Placed("loading", "cpu", 900, 2);
  loading.ready = false;

  const auto placement = Place(Want(), SmallModel(), {Cpu(2000)}, {pinned, loading});

  ASSERT_THAT(placement, HasReasonOf(Reason::kInsufficientDeviceMemory));
  EXPECT_THAT(placement.status().message(), HasSubstr("pinned there: precious"));
  const ErrorDetails details = DetailsOf(placement.status());
  EXPECT_EQ(details.metadata.at("free_bytes"), std::to_string(200 * kMiB));
  EXPECT_EQ(details.metadata.at("required_bytes"), std::to_string((1064 + 16) * kMiB));
  EXPECT_EQ(details.metadata.at("where"), "cpu");
}

TEST(PlacementTest, ModelsOnOtherDevicesAreNotEvicted) {
  const auto placement = Place(Want({.device_map = "cpu"}), SmallModel(),
                               {Cpu(1000), Gpu(0, 80'000)}, {Placed("other", "cuda:0", 70'000, 1)});

  EXPECT_THAT(placement, HasReasonOf(Reason::kInsufficientDeviceMemory));
}

TEST(PlacementTest, ReplacementGoesBesideTheOldInstanceWhereBothFit) {
  PlacementRequest request = Want();
  request.replace = true;

  const auto placement = Place(request, SmallModel(), {Cpu(4000)}, {Placed("new", "cpu", 1600, 1)});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->evict, IsEmpty());
}

TEST(PlacementTest, ReplacementEvictsItsOwnInstanceBeforeOthersEvenIfPinned) {
  PlacementRequest request = Want();
  request.replace = true;
  PlacedModel own = Placed("new", "cpu", 1600, 9);
  own.pinned = true;

  const auto placement =
      Place(request, SmallModel(), {Cpu(3300)}, {Placed("other", "cpu", 1600, 1), own});

  ASSERT_THAT(placement, IsOk());
  EXPECT_THAT(placement->evict, ElementsAre("new"));
}

TEST(PlacementTest, OwnInstanceStaysUnlessItIsReplaced) {
  EXPECT_THAT(Place(Want(), SmallModel(), {Cpu(2000)}, {Placed("new", "cpu", 1600, 1)}),
              HasReasonOf(Reason::kInsufficientDeviceMemory));
}

}  // namespace
}  // namespace modeld
