// SmolLM2-135M-Instruct against transformers. The model is not part of the repository:
// MODELD_TEST_MODELS is the folder that has HuggingFaceTB/SmolLM2-135M-Instruct in it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/models/golden.h"

namespace modeld {
namespace {

struct Chat {
  std::vector<int64_t> prompt;
  std::vector<int64_t> greedy;
  at::Tensor top_ids;     // [greedy, 32]: the largest logits before each greedy token
  at::Tensor top_logits;  // float32
  double largest;         // |logit| of all positions
};

class RealModelTest : public testing::Test {
 protected:
  void SetUp() override {
    // Read before any thread of ours exists.
    const char* folder = std::getenv("MODELD_TEST_MODELS");  // NOLINT(concurrency-mt-unsafe)
    ASSERT_NE(folder, nullptr) << "tests/run sets MODELD_TEST_MODELS to the folder of real models";
    snapshot_ = std::string(folder) + "/HuggingFaceTB/SmolLM2-135M-Instruct";
    std::ifstream stream(TinyRepository("smollm2-135m-instruct.golden.json"));
    golden_ = nlohmann::json::parse(stream);
    for (const auto& chat : golden_.at("chats")) chats_.push_back(ChatOf(chat));
  }

  static Chat ChatOf(const nlohmann::json& json) {
    Chat chat = {.prompt = json.at("prompt"), .greedy = json.at("greedy")};
    std::vector<int64_t> ids;
    std::vector<float> logits;
    for (const auto& row : json.at("top_ids")) {
      for (const int64_t id : row) ids.push_back(id);
    }
    for (const auto& row : json.at("top_logits")) {
      for (const float logit : row) logits.push_back(logit);
    }
    chat.top_ids = at::tensor(ids).view({std::ssize(chat.greedy), -1});
    chat.top_logits = at::tensor(logits).view({std::ssize(chat.greedy), -1});
    const std::vector<double> largest = json.at("largest");
    chat.largest = *std::max_element(largest.begin(), largest.end());
    return chat;
  }

  LoadedModel Load(const std::string& dtype) const {
    ModelLoadOptions options = TinyOptions("", dtype);
    options.snapshot_path = snapshot_;
    options.budget_bytes = {{"cpu", int64_t{2} << 30}};
    options.threads = 2;
    absl::StatusOr<LoadedModel> loaded = LoadModel(options, nullptr);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return std::move(loaded).value();
  }

  // Logits before each greedy token, [greedy, vocab].
  static at::Tensor FedLogits(CausalLm& model, const Chat& chat) {
    std::vector<int64_t> fed = chat.prompt;
    fed.insert(fed.end(), chat.greedy.begin(), chat.greedy.end() - 1);
    return AllLogits(model, fed, 1000)
        .narrow(0, std::ssize(chat.prompt) - 1, std::ssize(chat.greedy));
  }

  std::string snapshot_;
  nlohmann::json golden_;
  std::vector<Chat> chats_;
};

TEST_F(RealModelTest, ChatsInOneBatchChooseTheReferencesTokens) {
  const LoadedModel loaded = Load("float32");
  std::vector<std::unique_ptr<SequenceState>> states;
  std::vector<std::vector<int64_t>> next;
  std::vector<std::vector<int64_t>> chosen(chats_.size());
  for (const Chat& chat : chats_) {
    states.push_back(loaded.model->NewSequence());
    next.push_back(chat.prompt);
  }

  for (size_t step = 0; step < chats_[0].greedy.size(); ++step) {
    std::vector<Segment> segments;
    for (size_t i = 0; i < next.size(); ++i) {
      ASSERT_TRUE(states[i]->Reserve(states[i]->length() + std::ssize(next[i])));
      segments.push_back({.state = states[i].get(), .token_ids = next[i]});
    }
    const at::Tensor logits = loaded.model->Forward(segments);
    for (size_t i = 0; i < next.size(); ++i) {
      next[i] = {Best(logits[i])};
      chosen[i].push_back(next[i].front());
    }
  }

  for (size_t i = 0; i < chats_.size(); ++i) EXPECT_EQ(chosen[i], chats_[i].greedy) << i;
}

TEST_F(RealModelTest, Float32LogitsAreTheReferences) {
  const LoadedModel loaded = Load("float32");

  for (const Chat& chat : chats_) {
    const at::Tensor logits = FedLogits(*loaded.model, chat).gather(1, chat.top_ids);

    const double distance = (logits - chat.top_logits).abs().max().item<double>();
    EXPECT_LT(distance, 1e-3 * chat.largest);
  }
}

// Over the golden's largest logits, and over all logits with our own float32, which the test above
// holds to the reference's, as the measure.
TEST_F(RealModelTest, BFloat16IsAsCloseToFloat32AsTheReferences) {
  const LoadedModel exact = Load("float32");
  const LoadedModel rounded = Load("bfloat16");
  std::vector<at::Tensor> top;
  std::vector<at::Tensor> all;

  for (const Chat& chat : chats_) {
    const at::Tensor logits = FedLogits(*rounded.model, chat);
    top.push_back((logits.gather(1, chat.top_ids) - chat.top_logits).abs().flatten());
    all.push_back((logits - FedLogits(*exact.model, chat)).abs().flatten());
  }

  const at::Tensor top_distance = at::cat(top);
  const at::Tensor all_distance = at::cat(all);
  const auto share = [&](const at::Tensor& ours, const char* reference) {
    return ours.item<double>() / golden_.at(reference).get<double>();
  };
  RecordProperty("top_mean_share", std::to_string(share(top_distance.mean(), "bf16_top_mean")));
  RecordProperty("top_max_share", std::to_string(share(top_distance.max(), "bf16_top_max")));
  EXPECT_LE(share(top_distance.mean(), "bf16_top_mean"), 1.25);
  EXPECT_LE(share(top_distance.max(), "bf16_top_max"), 1.25);
  EXPECT_LE(share(all_distance.mean(), "bf16_mean"), 1.25);
  EXPECT_LE(share(all_distance.max(), "bf16_max"), 1.25);
}

}  // namespace
}  // namespace modeld
