#include "server/engine/weights/config.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/engine/weights/architecture.h"
#include "server/engine/weights/generation_config.h"
#include "tests/engine/weights/repository.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

struct Impossible {
  const char* key;
  const char* value;
};

class ImpossibleConfigTest : public testing::TestWithParam<Impossible> {};

INSTANTIATE_TEST_SUITE_P(
    Numbers, ImpossibleConfigTest,
    testing::Values(Impossible{"num_attention_heads", "0"}, Impossible{"num_attention_heads", "-4"},
                    Impossible{"num_attention_heads", "1000000000"},
                    Impossible{"num_attention_heads", "3"},  // does not divide hidden_size
                    Impossible{"num_attention_heads", "absent"},
                    Impossible{"num_key_value_heads", "3"}, Impossible{"num_key_value_heads", "0"},
                    Impossible{"head_dim", "7"}, Impossible{"head_dim", "0"},
                    Impossible{"head_dim", "1000000"}, Impossible{"hidden_size", "33"},
                    Impossible{"hidden_size", "0"}, Impossible{"hidden_size", "1e300"},
                    Impossible{"hidden_size", "18446744073709551615"},
                    Impossible{"hidden_size", "\"32\""}, Impossible{"hidden_size", "absent"},
                    Impossible{"intermediate_size", "-1"}, Impossible{"vocab_size", "0"},
                    Impossible{"vocab_size", "4000000000"}, Impossible{"vocab_size", "[100]"},
                    Impossible{"num_hidden_layers", "1000000000"},
                    Impossible{"num_hidden_layers", "0"}, Impossible{"num_hidden_layers", "2.5"},
                    Impossible{"max_position_embeddings", "0"}, Impossible{"rms_norm_eps", "-1"},
                    Impossible{"rms_norm_eps", "0"}, Impossible{"rope_theta", "0"},
                    Impossible{"rope_theta", "-10000"}, Impossible{"rope_theta", "\"NaN\""},
                    Impossible{"tie_word_embeddings", "\"yes\""}, Impossible{"rope_scaling", "7"},
                    Impossible{"eos_token_id", "-1"}, Impossible{"eos_token_id", "[2,\"x\"]"}));

TEST_P(ImpossibleConfigTest, IsRefusedNamingTheKey) {
  const auto config = ReadArchitectureConfig(LlamaConfig(GetParam().key, GetParam().value));

  EXPECT_THAT(config, HasReasonOf(Reason::kInvalidRepository));
  // A size that does not divide is told by one of the two keys.
  const std::string message(config.status().message());
  EXPECT_NE(message.find(GetParam().key), std::string::npos) << message;
}

class NoJsonTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Texts, NoJsonTest,
                         testing::Values("", "{", "[]", "null", "{\"model_type\":7}", "{}",
                                         "{\"rope_theta\": NaN}", "{\"rope_theta\": 1e999}",
                                         std::string(200'000, '['), "{\"a\":\"\xff\xfe\"}",
                                         std::string("{\"a\":") + std::string(200'000, '{')));

TEST_P(NoJsonTest, IsRefused) {
  EXPECT_THAT(ReadArchitectureConfig(GetParam()), HasReasonOf(Reason::kInvalidRepository));
}

TEST(ConfigTest, BothSpellingsOfRopeSayTheSame) {
  const auto old_spelling = ReadArchitectureConfig(LlamaConfig(
      "rope_scaling", R"({"type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,)"
                      R"("original_max_position_embeddings":64},"rope_theta":500000)"));
  const auto new_spelling = ReadArchitectureConfig(
      LlamaConfig("rope_parameters",
                  R"({"rope_type":"llama3","rope_theta":500000,"factor":8,"low_freq_factor":1,)"
                  R"("high_freq_factor":4,"original_max_position_embeddings":64})"));

  ASSERT_THAT(old_spelling, IsOk());
  ASSERT_THAT(new_spelling, IsOk());
  for (const auto& config : {*old_spelling, *new_spelling}) {
    EXPECT_EQ(config.ropes[0].kind, RopeConfig::Kind::kLlama3);
    EXPECT_EQ(config.ropes[0].theta, 500000);
    EXPECT_EQ(config.ropes[0].factor, 8);
    EXPECT_EQ(config.ropes[0].original_context, 64);
  }
}

TEST(ConfigTest, OtherRopeTypeIsNamed) {
  const auto config =
      ReadArchitectureConfig(LlamaConfig("rope_scaling", R"({"rope_type":"spiral","factor":4})"));

  EXPECT_THAT(config, HasReasonOf(Reason::kUnsupportedArchitecture));
  EXPECT_NE(std::string(config.status().message()).find("spiral"), std::string::npos);
}

TEST(ConfigTest, ScalingWithoutFactorIsRefused) {
  EXPECT_THAT(ReadArchitectureConfig(LlamaConfig("rope_scaling", R"({"type":"linear"})")),
              HasReasonOf(Reason::kInvalidRepository));
}

TEST(ConfigTest, UnsupportedThingsAreToldApart) {
  EXPECT_THAT(ReadArchitectureConfig(LlamaConfig("model_type", "\"gpt_odd\"")),
              HasReasonOf(Reason::kUnsupportedArchitecture));
  EXPECT_THAT(
      ReadArchitectureConfig(LlamaConfig("architectures", R"(["LlamaForSequenceClassification"])")),
      HasReasonOf(Reason::kUnsupportedArchitecture));
  EXPECT_THAT(ReadArchitectureConfig(LlamaConfig("hidden_act", "\"tanh\"")),
              HasReasonOf(Reason::kUnsupportedArchitecture));
  EXPECT_THAT(ReadArchitectureConfig(
                  LlamaConfig("quantization_config", R"({"quant_method":"gptq","bits":4})")),
              HasReasonOf(Reason::kUnsupportedWeights));
}

// As published before transformers had the class, and as that writes it.
TEST(ConfigTest, BothSpellingsOfNomicBertSayTheSame) {
  const auto old_spelling = ReadArchitectureConfig(
      R"({"model_type":"nomic_bert","architectures":["NomicBertModel"],"n_embd":32,"n_head":4,
          "n_layer":3,"n_inner":48,"n_positions":8192,"max_trained_positions":2048,
          "layer_norm_epsilon":1e-12,"rotary_emb_base":1000,"rotary_emb_fraction":1.0,
          "rotary_emb_interleaved":false,"activation_function":"swiglu","prenorm":false,
          "qkv_proj_bias":false,"mlp_fc1_bias":false,"type_vocab_size":2,"vocab_size":320})");
  const auto new_spelling = ReadArchitectureConfig(
      R"({"model_type":"nomic_bert","architectures":["NomicBertModel"],"hidden_size":32,
          "num_attention_heads":4,"num_hidden_layers":3,"intermediate_size":48,
          "max_position_embeddings":2048,"layer_norm_eps":1e-12,"type_vocab_size":2,
          "rope_parameters":{"rope_type":"default","rope_theta":1000},"vocab_size":320})");

  ASSERT_THAT(old_spelling, IsOk());
  ASSERT_THAT(new_spelling, IsOk());
  for (const auto& config : {*old_spelling, *new_spelling}) {
    EXPECT_EQ(config.hidden_size, 32);
    EXPECT_EQ(config.num_layers, 3);
    EXPECT_EQ(config.max_context, 2048);
    EXPECT_EQ(config.ropes[0].theta, 1000);
    EXPECT_EQ(config.norm_eps, 1e-12);
    EXPECT_TRUE(config.makes_vectors);
  }
}

TEST(ConfigTest, OptionsOfEncodersThatAreNotThereAreNamed) {
  const auto refuses = [](const std::string& model_type, const std::string& option) {
    const auto config = ReadArchitectureConfig(R"({"model_type":")" + model_type + "\"," + option +
                                               R"(,"hidden_size":32,"num_attention_heads":4})");
    EXPECT_THAT(config, HasReasonOf(Reason::kUnsupportedArchitecture)) << option;
  };
  refuses("bert", R"("position_embedding_type":"relative_key")");
  refuses("bert", R"("is_decoder":true)");
  refuses("nomic_bert", R"("n_embd":32,"n_head":4,"n_layer":2,"n_inner":48,"prenorm":true)");
  refuses("nomic_bert",
          R"("n_embd":32,"n_head":4,"n_layer":2,"n_inner":48,"moe_every_n_layers":2)");
  refuses("bert", R"("architectures":["BertForSequenceClassification"])");
}

// Published without their head, decoders are there for vectors.
TEST(ConfigTest, ADecoderWithoutItsHeadMakesVectors) {
  const auto generates = ReadArchitectureConfig(LlamaConfig());
  const auto embeds = ReadArchitectureConfig(LlamaConfig("architectures", R"(["LlamaModel"])"));

  ASSERT_THAT(generates, IsOk());
  ASSERT_THAT(embeds, IsOk());
  EXPECT_FALSE(generates->makes_vectors);
  EXPECT_TRUE(embeds->makes_vectors);
  EXPECT_EQ(KvBytesPerToken(*embeds, 4), 0);
  EXPECT_THAT(ReadArchitectureConfig(LlamaConfig("architectures", R"(["LlamaOddModel"])")),
              HasReasonOf(Reason::kUnsupportedArchitecture));
}

TEST(ConfigTest, LatentAttentionMakesNoVectors) {
  ArchitectureConfig config = ReadArchitectureConfig(LlamaConfig()).value();
  config.latent.kv_rank = 8;

  EXPECT_THAT(UseForVectors(config), HasReasonOf(Reason::kUnsupportedArchitecture));
}

TEST(ConfigTest, LargestAllowedSizesDoNotOverflow) {
  ArchitectureConfig config;
  config.model_type = "llama";
  config.hidden_size = 1 << 18;
  config.intermediate_size = 1 << 20;
  config.num_layers = 1 << 12;
  config.layers.assign(config.num_layers, {.head_dim = 1 << 12, .num_kv_heads = 1 << 12});
  config.num_heads = 1 << 12;
  config.vocab_size = 1 << 24;

  int64_t bytes = 0;
  for (const TensorShape& tensor : TensorsOf(config)) {
    int64_t tensor_bytes = 0;
    ASSERT_FALSE(__builtin_mul_overflow(tensor.elements(), int64_t{4}, &tensor_bytes));
    ASSERT_FALSE(__builtin_add_overflow(bytes, tensor_bytes, &bytes));
  }
  EXPECT_GT(KvBytesPerToken(config, 4), 0);
}

TEST(GenerationConfigTest, FileGoesBeforeConfig) {
  const auto defaults = ReadGenerationDefaults(
      R"({"do_sample":true,"temperature":0.6,"top_k":20,"top_p":null,"eos_token_id":[5,6]})", {2});

  ASSERT_THAT(defaults, IsOk());
  EXPECT_EQ(defaults->do_sample, true);
  EXPECT_EQ(defaults->temperature, 0.6);
  EXPECT_EQ(defaults->top_k, 20);
  EXPECT_EQ(defaults->top_p, std::nullopt);
  EXPECT_EQ(defaults->eos_token_ids, (std::vector<int64_t>{5, 6}));
}

TEST(GenerationConfigTest, WithoutTheFileConfigsEndTokensCount) {
  const auto defaults = ReadGenerationDefaults("", {2});

  ASSERT_THAT(defaults, IsOk());
  EXPECT_EQ(defaults->eos_token_ids, std::vector<int64_t>{2});
}

TEST(GenerationConfigTest, ImpossibleTemperatureIsRefused) {
  EXPECT_THAT(ReadGenerationDefaults(R"({"temperature":-1})", {}),
              HasReasonOf(Reason::kInvalidRepository));
}

}  // namespace
}  // namespace modeld
