// Embed of an engine against sentence-transformers, and what it refuses.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/wire/status_wire.h"
#include "tests/engine/serve/engine_process.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

struct Vectors {
  modeld::v1::EmbedResponse response;
  absl::Status status;

  std::vector<float> At(int i) const {
    const auto& values = response.embeddings(i).values();
    return {values.begin(), values.end()};
  }
};

Vectors Embed(EngineProcess& engine, const modeld::v1::EmbedRequest& request) {
  Vectors vectors;
  grpc::ClientContext context;
  vectors.status = FromGrpcStatus(engine.inference().Embed(&context, request, &vectors.response));
  return vectors;
}

modeld::v1::EmbedRequest Request(const std::vector<std::string>& inputs) {
  modeld::v1::EmbedRequest request;
  request.mutable_inputs()->Assign(inputs.begin(), inputs.end());
  return request;
}

double Length(const std::vector<float>& vector) {
  double square = 0;
  for (const float x : vector) square += static_cast<double>(x) * x;
  return std::sqrt(square);
}

double Cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double product = 0;
  for (size_t i = 0; i < a.size(); ++i) product += static_cast<double>(a[i]) * b[i];
  return product / (Length(a) * Length(b));
}

class SentencesTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Repositories, SentencesTest,
                         testing::Values("tiny-bert", "tiny-embedding-gemma",
                                         "tiny-qwen3-embedding"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Pooling, dense layers, prompts, and texts that are cut off.
TEST_P(SentencesTest, VectorsAreThoseOfSentenceTransformers) {
  std::ifstream file(std::string(MODELD_TEST_MODELS) + "/" + GetParam() + "/sentences.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  EngineProcess engine;
  ASSERT_THAT(engine.Load(GetParam()).status, IsOk());
  modeld::v1::EmbedRequest request = Request(golden.at("texts"));

  for (const nlohmann::json& item : golden.at("cases")) {
    request.set_prompt_name(item.at("prompt_name"));
    const Vectors vectors = Embed(engine, request);

    ASSERT_THAT(vectors.status, IsOk()) << item.at("prompt_name");
    ASSERT_EQ(vectors.response.embeddings_size(), request.inputs_size());
    for (int i = 0; i < request.inputs_size(); ++i) {
      const std::vector<float> expected = item.at("vectors").at(i);
      ASSERT_EQ(vectors.At(i).size(), expected.size());
      EXPECT_GT(Cosine(vectors.At(i), expected), 1 - 1e-6)
          << item.at("prompt_name") << " text " << i;
      EXPECT_NEAR(Length(vectors.At(i)), Length(expected), 1e-5);
    }
  }
}

class EmbeddingTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    engine_ = std::make_unique<EngineProcess>();
    ASSERT_THAT(engine_->Load("tiny-bert").status, IsOk());
  }
  static void TearDownTestSuite() { engine_.reset(); }

  static std::unique_ptr<EngineProcess> engine_;
};

std::unique_ptr<EngineProcess> EmbeddingTest::engine_;

TEST_F(EmbeddingTest, NormalizingCanBeAskedForAndForbidden) {
  modeld::v1::EmbedRequest request = Request({"the river", "the town"});
  request.set_normalize(false);
  const Vectors plain = Embed(*engine_, request);
  request.set_normalize(true);
  const Vectors normalized = Embed(*engine_, request);

  ASSERT_THAT(plain.status, IsOk());
  ASSERT_THAT(normalized.status, IsOk());
  EXPECT_GT(std::abs(Length(plain.At(0)) - 1), 1e-3);
  EXPECT_NEAR(Length(normalized.At(0)), 1, 1e-6);
  EXPECT_NEAR(Cosine(plain.At(0), normalized.At(0)), 1, 1e-6);
}

TEST_F(EmbeddingTest, FewerDimensionsAreTheFirstOnesNormalizedAgain) {
  modeld::v1::EmbedRequest request = Request({"the river"});
  const Vectors whole = Embed(*engine_, request);
  request.set_dimensions(5);
  const Vectors cut = Embed(*engine_, request);

  ASSERT_THAT(cut.status, IsOk());
  std::vector<float> expected = whole.At(0);
  expected.resize(5);
  ASSERT_EQ(cut.At(0).size(), 5U);
  EXPECT_NEAR(Cosine(cut.At(0), expected), 1, 1e-6);
  EXPECT_NEAR(Length(cut.At(0)), 1, 1e-6);
}

// The repository reads 24 tokens, of which the default prompt is a part.
TEST_F(EmbeddingTest, LongTextsAreCutOffUnlessThatIsForbidden) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "river ";
  modeld::v1::EmbedRequest request = Request({text, "river"});
  const Vectors cut = Embed(*engine_, request);
  request.set_truncate(false);
  const Vectors refused = Embed(*engine_, request);

  ASSERT_THAT(cut.status, IsOk());
  EXPECT_EQ(cut.response.embeddings(0).token_count(), 24);
  EXPECT_TRUE(cut.response.embeddings(0).truncated());
  EXPECT_FALSE(cut.response.embeddings(1).truncated());
  EXPECT_EQ(cut.response.usage().prompt_tokens(), 24 + cut.response.embeddings(1).token_count());
  EXPECT_THAT(refused.status, HasReasonOf(Reason::kContextLengthExceeded));
}

TEST_F(EmbeddingTest, BadArgumentsAreNamed) {
  EXPECT_THAT(Embed(*engine_, {}).status, NamesField("inputs"));

  modeld::v1::EmbedRequest prompt = Request({"x"});
  prompt.set_prompt_name("no such");
  EXPECT_THAT(Embed(*engine_, prompt).status, NamesField("prompt_name"));

  for (const int dimensions : {0, -1, 25}) {
    modeld::v1::EmbedRequest request = Request({"x"});
    request.set_dimensions(dimensions);
    EXPECT_THAT(Embed(*engine_, request).status, NamesField("dimensions")) << dimensions;
  }

  // Vectors of 24 numbers: 96 bytes each.
  EXPECT_THAT(Embed(*engine_, Request(std::vector<std::string>((48 << 20) / 96 + 1))).status,
              NamesField("inputs"));
}

TEST_F(EmbeddingTest, AModelThatMakesVectorsGeneratesNothing) {
  modeld::v1::GenerateRequest generate;
  generate.set_prompt("hello");
  modeld::v1::ChatRequest chat;
  chat.add_messages()->set_role("user");

  EXPECT_THAT(engine_->Generate(generate).status, HasReasonOf(Reason::kMethodNotSupported));
  EXPECT_THAT(engine_->Chat(chat).status, HasReasonOf(Reason::kMethodNotSupported));
}

TEST_F(EmbeddingTest, RequestsAndTokensAreCounted) {
  const modeld::engine::v1::StatsResponse before = engine_->StatsNow();
  const Vectors vectors = Embed(*engine_, Request({"one", "two of them"}));
  ASSERT_THAT(vectors.status, IsOk());

  const modeld::engine::v1::StatsResponse after = engine_->StatsNow();

  EXPECT_EQ(after.prompt_tokens_total() - before.prompt_tokens_total(),
            vectors.response.usage().prompt_tokens());
  const auto finished = [](const modeld::engine::v1::StatsResponse& stats) {
    int64_t count = 0;
    for (const auto& entry : stats.finished()) {
      if (entry.method() == "Embed" && entry.finish_reason() == "stop") count = entry.count();
    }
    return count;
  };
  EXPECT_EQ(finished(after) - finished(before), 1);
  EXPECT_EQ(after.active_requests(), 0);
}

TEST_F(EmbeddingTest, ACallPastItsDeadlineEnds) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
  modeld::v1::EmbedResponse response;

  const grpc::Status status = engine_->inference().Embed(
      &context, Request(std::vector<std::string>(20'000, "the river in the town")), &response);

  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  // The engine goes on with the next one.
  EXPECT_THAT(Embed(*engine_, Request({"x"})).status, IsOk());
}

}  // namespace
}  // namespace modeld
