#include "server/engine/weights/sentence_config.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using Files = std::map<std::string, std::string>;

constexpr char kTransformer[] =
    R"({"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"})";

// modules.json of the model and `rest`, entries beginning with a comma.
std::string Modules(const std::string& rest) {
  return "[" + std::string(kTransformer) + rest + "]";
}

std::string Module(const std::string& type, const std::string& path) {
  return R"(,{"idx":1,"name":"1","path":")" + path + R"(","type":"sentence_transformers.models.)" +
         type + "\"}";
}

// A BERT of 32 with mean pooling, and what else `more` has.
Files With(const Files& more) {
  Files files = {{"modules.json", Modules(Module("Pooling", "1_Pooling"))},
                 {"1_Pooling/config.json",
                  R"({"word_embedding_dimension":32,"pooling_mode_mean_tokens":true})"}};
  for (const auto& [path, text] : more) files[path] = text;
  return files;
}

absl::StatusOr<SentenceConfig> Read(const Files& files) {
  ArchitectureConfig config;
  config.hidden_size = 32;
  return ReadSentenceConfig(
      [&](const std::string& path) -> absl::StatusOr<std::optional<std::string>> {
        const auto file = files.find(path);
        if (file == files.end()) return std::nullopt;
        return file->second;
      },
      config);
}

TEST(SentenceConfigTest, WithoutModulesTheMeanIsTaken) {
  const auto config = Read({{"tokenizer_config.json", R"({"model_max_length":512})"}});

  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->poolings, std::vector{Pooling::kMean});
  EXPECT_EQ(config->dimensions, 32);
  EXPECT_EQ(config->max_tokens, 512);
  EXPECT_FALSE(config->normalize);
}

TEST(SentenceConfigTest, EveryFileIsRead) {
  const auto config = Read(With({
      {"modules.json", Modules(Module("Pooling", "1_Pooling") + Module("Dense", "2_Dense") +
                               Module("Normalize", "3_Normalize"))},
      {"1_Pooling/config.json",
       R"({"word_embedding_dimension":32,"pooling_mode_cls_token":true,
           "pooling_mode_mean_tokens":true,"include_prompt":false})"},
      {"2_Dense/config.json",
       R"({"in_features":64,"out_features":16,"bias":false,
           "activation_function":"torch.nn.modules.linear.Identity"})"},
      {"sentence_bert_config.json", R"({"max_seq_length":128,"do_lower_case":false})"},
      {"tokenizer_config.json", R"({"model_max_length":512})"},
      {"config_sentence_transformers.json",
       R"({"prompts":{"query":"query: "},"default_prompt_name":"query"})"},
  }));

  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->poolings, (std::vector{Pooling::kFirst, Pooling::kMean}));
  EXPECT_FALSE(config->pools_prompt);
  ASSERT_EQ(config->modules.size(), 1U);
  EXPECT_EQ(config->modules[0].folder, "2_Dense");
  EXPECT_EQ(config->modules[0].activation, DenseActivation::kNone);
  EXPECT_FALSE(config->modules[0].bias);
  EXPECT_TRUE(config->normalize);
  EXPECT_EQ(config->dimensions, 16);
  EXPECT_EQ(config->max_tokens, 128);
  EXPECT_EQ(config->default_prompt, "query");
  EXPECT_EQ(config->prompts.at("query"), "query: ");
}

// The spelling of sentence-transformers 6.
TEST(SentenceConfigTest, NewNamesSayTheSame) {
  const auto config = Read(With({
      {"modules.json",
       R"([{"path":"","type":"sentence_transformers.base.modules.transformer.Transformer"},
           {"path":"1_Pooling",
            "type":"sentence_transformers.sentence_transformer.modules.pooling.Pooling"}])"},
      {"1_Pooling/config.json", R"({"embedding_dimension":32,"pooling_mode":["lasttoken","max"]})"},
  }));

  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->poolings, (std::vector{Pooling::kLast, Pooling::kMax}));
  EXPECT_EQ(config->dimensions, 64);
}

// "None" is written as 10^30 and the like.
TEST(SentenceConfigTest, ALengthLargerThanAnyIsNone) {
  const auto config =
      Read({{"tokenizer_config.json", R"({"model_max_length":1000000000000000019884624838656})"}});

  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->max_tokens, 0);
}

struct Broken {
  const char* file;
  std::string text;
  Reason reason;
  const char* mentions;
};

class BrokenSentenceConfigTest : public testing::TestWithParam<Broken> {};

INSTANTIATE_TEST_SUITE_P(
    Files, BrokenSentenceConfigTest,
    testing::Values(
        Broken{"modules.json", "[", Reason::kInvalidRepository, "modules.json"},
        Broken{"modules.json", "{}", Reason::kInvalidRepository, "modules.json"},
        Broken{"modules.json", "[]", Reason::kInvalidRepository, "modules.json"},
        Broken{"modules.json", "[7]", Reason::kInvalidRepository, "modules.json"},
        Broken{"modules.json", R"([],"x":[1])", Reason::kInvalidRepository, "modules.json"},
        Broken{"modules.json", Modules(""), Reason::kUnsupportedArchitecture, "pooling"},
        Broken{"modules.json", Modules(Module("LSTM", "1_LSTM")), Reason::kUnsupportedArchitecture,
               "LSTM"},
        Broken{"modules.json", Modules(Module("Pooling", "1_Pooling") + Module("CNN", "2_CNN")),
               Reason::kUnsupportedArchitecture, "CNN"},
        Broken{"modules.json", Modules(Module("Pooling", "../etc")), Reason::kInvalidRepository,
               "../etc"},
        Broken{"modules.json", Modules(Module("Pooling", "/etc")), Reason::kInvalidRepository,
               "/etc"},
        Broken{"1_Pooling/config.json", "{}", Reason::kInvalidRepository,
               "word_embedding_dimension"},
        Broken{"1_Pooling/config.json", R"({"word_embedding_dimension":33})",
               Reason::kInvalidRepository, "33"},
        Broken{"1_Pooling/config.json", R"({"embedding_dimension":32,"pooling_mode":"sum"})",
               Reason::kUnsupportedArchitecture, "sum"},
        Broken{"sentence_bert_config.json", R"({"max_seq_length":0})", Reason::kInvalidRepository,
               "max_seq_length"},
        Broken{"sentence_bert_config.json", R"({"do_lower_case":true})",
               Reason::kUnsupportedArchitecture, "do_lower_case"},
        Broken{"config_sentence_transformers.json", R"({"prompts":{"query":7}})",
               Reason::kInvalidRepository, "query"},
        Broken{"config_sentence_transformers.json", R"({"default_prompt_name":"passage"})",
               Reason::kInvalidRepository, "passage"}));

TEST_P(BrokenSentenceConfigTest, IsRefusedNamingWhatIsWrong) {
  const auto config = Read(With({{GetParam().file, GetParam().text}}));

  EXPECT_THAT(config, HasReasonOf(GetParam().reason));
  const std::string message(config.status().message());
  EXPECT_NE(message.find(GetParam().mentions), std::string::npos) << message;
}

TEST(SentenceConfigTest, ADenseLayerMustFitWhatComesIn) {
  const auto read = [](const std::string& dense) {
    return Read(With(
        {{"modules.json", Modules(Module("Pooling", "1_Pooling") + Module("Dense", "2_Dense"))},
         {"2_Dense/config.json", dense}}));
  };

  EXPECT_THAT(read(R"({"in_features":31,"out_features":8})"),
              HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(read(R"({"out_features":8})"), HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(read(R"({"in_features":32,"out_features":8,"activation_function":"os.system"})"),
              HasReasonOf(Reason::kUnsupportedArchitecture));
  EXPECT_THAT(read(R"({"in_features":32,"out_features":8,"use_residual":true})"),
              HasReasonOf(Reason::kUnsupportedArchitecture));
  EXPECT_THAT(read(R"({"in_features":32,"out_features":8})"), IsOk());
}

}  // namespace
}  // namespace modeld
