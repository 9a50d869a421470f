#include "tests/engine/models/golden.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "server/engine/weights/weight_file.h"

namespace modeld {

std::string TinyRepository(const std::string& name) {
  return std::string(MODELD_TEST_DATA) + "/models/" + name;
}

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(TinyRepository(""))) {
    if (std::filesystem::exists(entry.path() / "goldens.json")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string TestNameOf(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::vector<int64_t> Golden::Fed(size_t index) const {
  std::vector<int64_t> ids = prompts[index];
  ids.insert(ids.end(), greedy[index].begin(), greedy[index].end() - 1);
  return ids;
}

Golden LoadGolden(const std::string& name) {
  std::ifstream stream(TinyRepository(name) + "/goldens.json");
  const nlohmann::json json = nlohmann::json::parse(stream);
  Golden golden = {.prompts = json.at("prompts"),
                   .greedy = json.at("greedy"),
                   .logits = {},
                   .settled_row = json.value("settled_row", int64_t{0}),
                   .bf16_mean = json.at("bf16_mean"),
                   .bf16_max = json.at("bf16_max")};
  const auto file =
      WeightFile::Open(TinyRepository(name) + "/goldens.safetensors", "goldens").value();
  for (size_t i = 0; i < golden.prompts.size(); ++i) {
    const StoredTensor& stored = file->table().tensors.at("logits." + std::to_string(i));
    at::Tensor logits = at::empty(stored.shape, at::kFloat);
    std::memcpy(logits.data_ptr(), file->data(stored), stored.bytes());
    golden.logits.push_back(logits);
  }
  return golden;
}

ModelLoadOptions TinyOptions(const std::string& name, const std::string& dtype) {
  ModelLoadOptions options;
  options.snapshot_path = TinyRepository(name);
  options.spec.dtype = dtype;
  options.budget_bytes = {{"cpu", 256 << 20}};
  options.threads = 1;
  return options;
}

LoadedModel LoadTiny(const std::string& name, const std::string& dtype) {
  absl::StatusOr<LoadedModel> loaded = LoadModel(TinyOptions(name, dtype), nullptr);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return std::move(loaded).value();
}

at::Tensor AllLogits(CausalLm& model, const std::vector<int64_t>& token_ids, int64_t chunk) {
  const std::unique_ptr<SequenceState> state = model.NewSequence();
  std::vector<at::Tensor> rows;
  for (auto at = token_ids.begin(); at != token_ids.end();) {
    const auto end = at + std::min<int64_t>(chunk, token_ids.end() - at);
    EXPECT_TRUE(state->Reserve(state->length() + (end - at)));
    Segment segment = {.state = state.get(), .token_ids = {at, end}};
    segment.wants_all_logits = true;
    rows.push_back(model.Forward({segment}));
    at = end;
  }
  return at::cat(rows);
}

std::vector<int64_t> Ids(int64_t length, int64_t first) {
  std::vector<int64_t> ids(length);
  for (int64_t i = 0; i < length; ++i) ids[i] = (first + 7 * i) % 120;
  return ids;
}

at::Tensor Feed(CausalLm& model, SequenceState& state, const std::vector<int64_t>& ids) {
  EXPECT_TRUE(state.Reserve(state.length() + std::ssize(ids)));
  return model.Forward({{.state = &state, .token_ids = ids}});
}

at::Tensor Alone(CausalLm& model, const std::vector<int64_t>& ids,
                 const std::vector<int64_t>& more) {
  const std::unique_ptr<SequenceState> state = model.NewSequence();
  at::Tensor logits = Feed(model, *state, ids);
  for (const int64_t id : more) logits = Feed(model, *state, {id});
  return logits;
}

double RelativeDistance(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

int64_t Best(const at::Tensor& row) { return row.argmax().item<int64_t>(); }

}  // namespace modeld
