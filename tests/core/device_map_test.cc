#include "server/core/device_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ModuleNames Llama() {
  return {.embedding = {"model.embed_tokens"},
          .layer = "model.layers.",
          .norm = {"model.norm"},
          .head = {"lm_head"}};
}

ModuleNames Gpt2() {
  return {.embedding = {"transformer.wte", "transformer.wpe"},
          .layer = "transformer.h.",
          .norm = {"transformer.ln_f"},
          .head = {"lm_head"},
          .tied_head = true};
}

std::string MessageOf(const absl::StatusOr<DeviceMap>& map) {
  return std::string(map.status().message());
}

TEST(DeviceMapTest, ModulesGoWhereTheMapSays) {
  const auto map = ReadDeviceMap({{"model.embed_tokens", "cpu:0"},
                                  {"model.layers.0", "cpu:0"},
                                  {"model.layers.1", "cpu:1"},
                                  {"model.norm", "cpu:1"},
                                  {"lm_head", "cpu:0"}},
                                 Llama(), 2);

  ASSERT_THAT(map, IsOk());
  EXPECT_EQ(map->embedding, "cpu:0");
  EXPECT_THAT(map->layers, ElementsAre("cpu:0", "cpu:1"));
  EXPECT_EQ(map->norm, "cpu:1");
  EXPECT_EQ(map->head, "cpu:0");
  EXPECT_THAT(map->Devices(), ElementsAre("cpu:0", "cpu:1"));
}

TEST(DeviceMapTest, TheLongestNameCountsAndEmptyStandsForAll) {
  const auto map = ReadDeviceMap({{"", "a"}, {"model", "b"}, {"model.layers.1", "c"}}, Llama(), 12);

  ASSERT_THAT(map, IsOk());
  EXPECT_EQ(map->embedding, "b");
  EXPECT_EQ(map->layers[0], "b");
  EXPECT_EQ(map->layers[1], "c");
  EXPECT_EQ(map->layers[11], "b") << "a name ends at a dot";
  EXPECT_EQ(map->head, "a");
}

TEST(DeviceMapTest, ModulesWithoutADeviceAreListed) {
  const auto map = ReadDeviceMap({{"model.layers.0", "a"}, {"model.layers.2", "a"}}, Llama(), 3);

  ASSERT_THAT(map, NamesField("device_map_entries"));
  EXPECT_THAT(MessageOf(map), HasSubstr("model.embed_tokens, model.layers.1, model.norm, lm_head"));
}

TEST(DeviceMapTest, ManyMissingModulesAreCounted) {
  EXPECT_THAT(MessageOf(ReadDeviceMap({{"lm_head", "a"}}, Llama(), 100)), HasSubstr("and 94 more"));
}

TEST(DeviceMapTest, ALayerIsNotDivided) {
  const auto map = ReadDeviceMap({{"", "a"}, {"model.layers.1.mlp", "b"}}, Llama(), 2);

  ASSERT_THAT(map, NamesField("device_map_entries"));
  EXPECT_THAT(MessageOf(map), HasSubstr("model.layers.1.mlp"));
  EXPECT_THAT(ReadDeviceMap({{"", "a"}, {"model.layers.1.mlp", "a"}}, Llama(), 2), IsOk());
}

TEST(DeviceMapTest, NorIsAnEmbedding) {
  const auto map = ReadDeviceMap({{"", "a"}, {"transformer.wpe", "b"}}, Gpt2(), 2);

  ASSERT_THAT(map, NamesField("device_map_entries"));
  EXPECT_THAT(MessageOf(map), HasSubstr("transformer.wpe is to be on b"));
}

TEST(DeviceMapTest, BothTheRepositorysNamesAndTheUsualOnesAreKnown) {
  const auto own = ReadDeviceMap({{"transformer.wte", "a"},
                                  {"transformer.wpe", "a"},
                                  {"transformer.h.0", "a"},
                                  {"transformer.h.1", "b"},
                                  {"transformer.ln_f", "b"}},
                                 Gpt2(), 2);
  const auto usual =
      ReadDeviceMap({{"", "a"}, {"model.layers.1", "b"}, {"model.norm", "b"}}, Gpt2(), 2);

  ASSERT_THAT(own, IsOk());
  EXPECT_THAT(own->layers, ElementsAre("a", "b"));
  EXPECT_EQ(own->head, "a") << "a tied head is where the embedding is";
  ASSERT_THAT(usual, IsOk());
  EXPECT_EQ(*usual, *own);
}

TEST(DeviceMapTest, NamesThatTheModelDoesNotHaveAreOfNoMatter) {
  EXPECT_THAT(
      ReadDeviceMap(
          {{"model", "a"}, {"lm_head", "a"}, {"model.rotary_emb", "b"}, {"model.visual", "b"}},
          Llama(), 2),
      IsOk());
}

TEST(DeviceMapTest, AModelWithoutHeadAndNormEndsOnItsLastLayer) {
  const auto map =
      ReadDeviceMap({{"encoder.embeddings", "a"}, {"encoder.layer", "b"}},
                    {.embedding = {"encoder.embeddings.words"}, .layer = "encoder.layer."}, 2);

  ASSERT_THAT(map, IsOk());
  EXPECT_EQ(map->norm, "b");
  EXPECT_EQ(map->head, "b");
}

TEST(DeviceMapTest, EntriesOfAMapMakeTheSameMap) {
  DeviceMap map = DeviceMap::Whole("a", 12);
  map.layers[1] = map.layers[11] = "b";
  map.norm = "c";

  const auto again = ReadDeviceMap(map.ToEntries(), Gpt2(), 12);

  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(*again, map);
}

TEST(DeviceMapTest, DevicesHaveAKindAndMayHaveAnIndex) {
  for (const char* device : {"cpu", "cuda", "cpu:0", "cuda:12"}) EXPECT_TRUE(IsDevice(device));
  for (const char* device :
       {"", "auto", "disk", "cpu:", "cuda:x", "cuda:-1", "cpu:1000", "mps:0"}) {
    EXPECT_FALSE(IsDevice(device)) << device;
  }
}

}  // namespace
}  // namespace modeld
