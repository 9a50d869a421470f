#include "server/engine/weights/inspect.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "absl/strings/escaping.h"
#include "server/engine/weights/architecture.h"
#include "server/engine/weights/inspect_command.h"
#include "server/engine/weights/weight_set.h"
#include "tests/engine/weights/repository.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

InspectedRepository Honest() {
  InspectedRepository repository;
  repository.config_json = LlamaConfig();
  const std::string file = WeightsFor(ReadArchitectureConfig(LlamaConfig()).value());
  repository.files = {{"config.json", 300}, {"model.safetensors", std::ssize(file)}};
  repository.headers = {{"model.safetensors", file}};
  return repository;
}

bool Mentions(const Inspection& inspection, std::string_view text) {
  return inspection.message.find(text) != std::string::npos;
}

TEST(InspectTest, HonestRepositoryIsSupportedWithItsSizes) {
  const Inspection inspection = Inspect(Honest());

  EXPECT_TRUE(inspection.supported) << inspection.message;
  // Embedding 100 x 32, last norm 32; a layer: q and o 32 x 32, k and v 16 x 32, three of 64 x 32,
  // two norms.
  const int64_t layer = 2 * 1024 + 2 * 512 + 3 * 2048 + 64;
  EXPECT_EQ(inspection.parameters, 3232 + 2 * layer);
  EXPECT_EQ(inspection.weights_bytes.at("bfloat16"), 2 * inspection.parameters);
  EXPECT_EQ(inspection.weights_bytes.at("float32"), 4 * inspection.parameters);
  EXPECT_EQ(inspection.weights_file_bytes, 2 * inspection.parameters);
  EXPECT_EQ(inspection.layer_bytes.at("bfloat16"), (std::vector<int64_t>{2 * layer, 2 * layer}));
  EXPECT_EQ(inspection.kv_bytes_per_token.at("bfloat16"), 2 * 2 * 2 * 8 * 2);
  EXPECT_EQ(inspection.max_context, 512);
  EXPECT_EQ(inspection.weight_files, std::vector<std::string>{"model.safetensors"});
}

// What a device needs when the model is divided: the parts are the whole.
TEST(InspectTest, PartsAreToldWithTheirModules) {
  const Inspection inspection = Inspect(Honest());

  for (const char* dtype : {"bfloat16", "float16", "float32"}) {
    const std::vector<int64_t>& layers = inspection.layer_bytes.at(dtype);
    const int64_t with_tied_head = inspection.embedding_bytes.at(dtype) +
                                   inspection.norm_bytes.at(dtype) +
                                   std::accumulate(layers.begin(), layers.end(), int64_t{0});
    EXPECT_EQ(with_tied_head, inspection.weights_bytes.at(dtype));
    const std::vector<int64_t>& kv = inspection.layer_kv_bytes_per_token.at(dtype);
    EXPECT_EQ(std::accumulate(kv.begin(), kv.end(), int64_t{0}),
              inspection.kv_bytes_per_token.at(dtype));
  }
  EXPECT_EQ(inspection.head_bytes.at("float32"), 4 * 100 * 32);
  EXPECT_EQ(inspection.layer_state_bytes, (std::vector<int64_t>{0, 0}));
  EXPECT_GT(inspection.pass_bytes, 0);
  EXPECT_EQ(inspection.logits_bytes, 2 * 64 * 100 * 4);
  EXPECT_EQ(inspection.modules.embedding, std::vector<std::string>{"model.embed_tokens"});
  EXPECT_EQ(inspection.modules.layer, "model.layers.");
  EXPECT_EQ(inspection.modules.norm, std::vector<std::string>{"model.norm"});
  EXPECT_TRUE(inspection.modules.tied_head);
  EXPECT_TRUE(inspection.IsWhole());
}

TEST(InspectTest, WithoutHeadersAnInspectionIsNotWhole) {
  InspectedRepository repository = Honest();
  repository.headers.clear();

  EXPECT_FALSE(Inspect(repository).IsWhole());
}

TEST(InspectTest, NamesOfTorchShardsAreCheckedByTheirIndex) {
  const ArchitectureConfig config = ReadArchitectureConfig(LlamaConfig()).value();
  nlohmann::json places;
  for (const TensorShape& tensor : TensorsOf(config)) {
    places[tensor.name] = "pytorch_model-00001-of-00002.bin";
  }
  places["model.norm.weight"] = "pytorch_model-00002-of-00002.bin";
  const auto inspect = [](const nlohmann::json& weight_map) {
    InspectedRepository repository;
    repository.config_json = LlamaConfig();
    repository.files = {{"config.json", 300},
                        {"pytorch_model.bin.index.json", 100},
                        {"pytorch_model-00001-of-00002.bin", 1000},
                        {"pytorch_model-00002-of-00002.bin", 1000}};
    repository.torch_index_json = nlohmann::json{{"weight_map", weight_map}}.dump();
    return Inspect(repository);
  };

  const Inspection whole = inspect(places);
  places.erase("model.layers.1.mlp.up_proj.weight");
  places["model.stray"] = "pytorch_model-00001-of-00002.bin";
  const Inspection wrong = inspect(places);

  EXPECT_TRUE(whole.supported) << whole.message;
  EXPECT_TRUE(whole.IsWhole());
  EXPECT_EQ(whole.weight_files.size(), 2U);
  EXPECT_EQ(wrong.reason, "INVALID_REPOSITORY");
  EXPECT_TRUE(Mentions(wrong, "model.layers.1.mlp.up_proj.weight")) << wrong.message;
  EXPECT_TRUE(Mentions(wrong, "model.stray")) << wrong.message;
}

InspectedRepository Bert() {
  InspectedRepository repository;
  repository.config_json = R"({"model_type":"bert","architectures":["BertModel"],"hidden_size":32,
      "intermediate_size":64,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":100})";
  const std::string file = WeightsFor(ReadArchitectureConfig(repository.config_json).value());
  repository.files = {{"config.json", 300},
                      {"model.safetensors", std::ssize(file)},
                      {"modules.json", 200},
                      {"1_Pooling/config.json", 100}};
  repository.headers = {{"model.safetensors", file}};
  repository.texts = {
      {"modules.json", R"([{"path":"","type":"sentence_transformers.models.Transformer"},
                           {"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}])"},
      {"1_Pooling/config.json", R"({"word_embedding_dimension":32})"}};
  return repository;
}

TEST(InspectTest, AnEncoderMakesVectorsAndKeepsNothing) {
  const Inspection inspection = Inspect(Bert());

  EXPECT_TRUE(inspection.supported) << inspection.message;
  EXPECT_TRUE(inspection.makes_vectors);
  EXPECT_EQ(inspection.max_context, 512);
  // What a token of a text costs: six rows of 32, and three of queries, keys and values.
  EXPECT_EQ(inspection.kv_bytes_per_token.at("bfloat16"), (6 * 32 + 3 * 3 * 32) * 4);
  EXPECT_FALSE(Inspect(Honest()).makes_vectors);
}

TEST(InspectTest, ADecoderWithModulesMakesVectors) {
  InspectedRepository repository = Honest();
  repository.files["modules.json"] = 200;

  const Inspection inspection = Inspect(repository);

  EXPECT_TRUE(inspection.supported) << inspection.message;
  EXPECT_TRUE(inspection.makes_vectors);
}

TEST(InspectTest, AModuleThatIsNotKnownIsNamedBeforeTheDownload) {
  InspectedRepository repository = Bert();
  repository.texts["modules.json"] =
      R"([{"path":"","type":"sentence_transformers.models.Transformer"},
          {"path":"1_LSTM","type":"sentence_transformers.models.LSTM"}])";

  const Inspection inspection = Inspect(repository);

  EXPECT_EQ(inspection.reason, "UNSUPPORTED_ARCHITECTURE");
  EXPECT_TRUE(Mentions(inspection, "LSTM")) << inspection.message;
}

TEST(InspectTest, SizesAreThereWithoutHeaders) {
  InspectedRepository repository = Honest();
  repository.headers.clear();

  const Inspection inspection = Inspect(repository);

  EXPECT_TRUE(inspection.supported) << inspection.message;
  EXPECT_EQ(inspection.parameters, 0);
  EXPECT_GT(inspection.weights_bytes.at("bfloat16"), 0);
}

// What convolution and memory of two layers keep, float32 whatever the dtype of the model.
TEST(InspectTest, StateOfLayersOtherThanAttentionIsTold) {
  const Inspection inspection = Inspect({.config_json = R"({"model_type":"qwen3_5_text",
      "hidden_size":32,"intermediate_size":64,"num_hidden_layers":3,"num_attention_heads":4,
      "num_key_value_heads":2,"head_dim":8,"vocab_size":100,"full_attention_interval":3,
      "linear_conv_kernel_dim":4,"linear_num_key_heads":2,"linear_num_value_heads":4,
      "linear_key_head_dim":16,"linear_value_head_dim":8})"});

  EXPECT_TRUE(inspection.supported) << inspection.message;
  const int64_t window = 3 * (2 * 2 * 16 + 4 * 8);
  EXPECT_EQ(inspection.state_bytes_per_sequence, 2 * 4 * (window + 4 * 16 * 8));
  EXPECT_EQ(inspection.kv_bytes_per_token.at("bfloat16"), 2 * 2 * 8 * 2);
}

std::string Gemma4Config(int shared_layers) {
  nlohmann::json config = nlohmann::json::parse(R"({"model_type":"gemma4_text","hidden_size":32,
      "intermediate_size":64,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,
      "head_dim":8,"global_head_dim":16,"vocab_size":100,"vocab_size_per_layer_input":100,
      "hidden_size_per_layer_input":4,
      "layer_types":["sliding_attention","full_attention","sliding_attention","full_attention"]})");
  config["num_kv_shared_layers"] = shared_layers;
  return config.dump();
}

// Published files hold keys and values of such layers all the same.
TEST(InspectTest, KeysOfLayersThatShareOthersAreNotNeededButMayBeThere) {
  const std::string with_all = WeightsFor(ReadArchitectureConfig(Gemma4Config(0)).value());
  const std::string with_some = WeightsFor(ReadArchitectureConfig(Gemma4Config(2)).value());
  const auto inspect = [](int shared_layers, const std::string& file) {
    return Inspect({.files = {{"config.json", 300}, {"model.safetensors", std::ssize(file)}},
                    .config_json = Gemma4Config(shared_layers),
                    .headers = {{"model.safetensors", file}}});
  };

  const Inspection unneeded = inspect(2, with_all);
  const Inspection missing = inspect(0, with_some);

  EXPECT_TRUE(inspect(2, with_some).supported);
  EXPECT_TRUE(unneeded.supported) << unneeded.message;
  EXPECT_EQ(unneeded.kv_bytes_per_token.at("bfloat16"), 2 * 2 * (2 * 8 + 2 * 16));
  EXPECT_EQ(missing.reason, "INVALID_REPOSITORY");
  EXPECT_TRUE(Mentions(missing, "model.layers.2.self_attn.k_proj.weight")) << missing.message;
}

TEST(InspectTest, MissingTensorIsNamed) {
  InspectedRepository repository = Honest();
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const std::string file = WeightsFor(ReadArchitectureConfig(LlamaConfig()).value(), name);
  repository.headers["model.safetensors"] = file;
  repository.files["model.safetensors"] = std::ssize(file);

  const Inspection inspection = Inspect(repository);

  EXPECT_EQ(inspection.reason, "INVALID_REPOSITORY");
  EXPECT_TRUE(Mentions(inspection, name)) << inspection.message;
}

TEST(InspectTest, TensorOfAnotherShapeIsNamedWithBothShapes) {
  InspectedRepository repository = Honest();
  repository.config_json = LlamaConfig("vocab_size", "101");

  const Inspection inspection = Inspect(repository);

  EXPECT_EQ(inspection.reason, "INVALID_REPOSITORY");
  EXPECT_TRUE(Mentions(inspection, "[100, 32] instead of [101, 32]")) << inspection.message;
}

TEST(InspectTest, RemoteCodeWithoutNativeArchitecture) {
  InspectedRepository repository = Honest();
  repository.config_json =
      R"({"model_type":"odd","auto_map":{"AutoModelForCausalLM":"o/r--modeling_odd.OddForCausalLM"}})";

  const Inspection untrusted = Inspect(repository);
  repository.trust_remote_code = true;
  const Inspection trusted = Inspect(repository);

  EXPECT_EQ(untrusted.reason, "REMOTE_CODE_NOT_TRUSTED");
  EXPECT_TRUE(untrusted.has_remote_code);
  EXPECT_EQ(trusted.reason, "UNSUPPORTED_ARCHITECTURE");
  EXPECT_TRUE(Mentions(trusted, "modeling_odd.py")) << trusted.message;
}

TEST(InspectTest, RemoteCodeBesideANativeArchitectureIsNotNeeded) {
  InspectedRepository repository = Honest();
  repository.config_json = LlamaConfig("auto_map", R"({"AutoModel":"modeling_x.X"})");

  const Inspection inspection = Inspect(repository);

  EXPECT_TRUE(inspection.supported) << inspection.message;
  EXPECT_TRUE(inspection.has_remote_code);
}

TEST(InspectTest, WeightsOfOtherFormatsAreUnsupported) {
  InspectedRepository repository = Honest();
  repository.files = {{"config.json", 300}, {"model-q4_0.gguf", 1000}};

  const Inspection inspection = Inspect(repository);

  EXPECT_EQ(inspection.reason, "UNSUPPORTED_WEIGHTS");
  EXPECT_TRUE(Mentions(inspection, "model-q4_0.gguf")) << inspection.message;
}

TEST(InspectTest, TorchFilesAreTheWeightsWhereThereAreNoSafetensors) {
  InspectedRepository repository = Honest();
  repository.files = {{"config.json", 300}, {"pytorch_model.bin", 1000}};
  EXPECT_EQ(Inspect(repository).weight_files, (std::vector<std::string>{"pytorch_model.bin"}));

  repository.files = {{"config.json", 300},
                      {"pytorch_model.bin.index.json", 100},
                      {"pytorch_model-00001-of-00002.bin", 1000},
                      {"pytorch_model-00002-of-00002.bin", 1000},
                      {"training_args.bin", 10}};
  const Inspection inspection = Inspect(repository);

  EXPECT_TRUE(inspection.supported) << inspection.message;
  EXPECT_EQ(inspection.weight_files,
            (std::vector<std::string>{"pytorch_model-00001-of-00002.bin",
                                      "pytorch_model-00002-of-00002.bin"}));
}

TEST(InspectTest, QuantizedWeightsAreRefusedByTheirMethodsName) {
  for (const char* method : {"gptq", "awq", "compressed-tensors", "bitsandbytes", "hqq"}) {
    InspectedRepository repository = Honest();
    repository.config_json =
        LlamaConfig("quantization_config", nlohmann::json{{"quant_method", method}}.dump());

    const Inspection inspection = Inspect(repository);

    EXPECT_EQ(inspection.reason, "UNSUPPORTED_WEIGHTS");
    EXPECT_TRUE(Mentions(inspection, method)) << inspection.message;
  }
}

TEST(InspectTest, RepositoryWithoutWeightsIsInvalid) {
  InspectedRepository repository = Honest();
  repository.files = {{"config.json", 300}};

  EXPECT_EQ(Inspect(repository).reason, "INVALID_REPOSITORY");
}

TEST(InspectTest, IndexMayNotLeaveTheRepository) {
  for (const char* path : {"../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors",
                           "a//x.safetensors", "x.bin", "", "./x.safetensors"}) {
    InspectedRepository repository = Honest();
    repository.files = {{"model.safetensors.index.json", 100}};
    repository.index_json = nlohmann::json{{"weight_map", {{"a", path}}}}.dump();

    EXPECT_EQ(Inspect(repository).reason, "INVALID_REPOSITORY") << path;
  }
}

TEST(InspectTest, IndexThatNamesAMissingFileIsInvalid) {
  InspectedRepository repository = Honest();
  repository.files = {{"model.safetensors.index.json", 100}};
  repository.index_json = R"({"weight_map":{"a":"model-00001-of-00002.safetensors"}})";

  const Inspection inspection = Inspect(repository);

  EXPECT_EQ(inspection.reason, "INVALID_REPOSITORY");
  EXPECT_TRUE(Mentions(inspection, "model-00001-of-00002.safetensors")) << inspection.message;
}

TEST(InspectTest, HeaderIsHeldAgainstTheListedSize) {
  InspectedRepository repository = Honest();
  repository.files["model.safetensors"] -= 1;

  EXPECT_EQ(Inspect(repository).reason, "INVALID_REPOSITORY");
}

TEST(InspectCommandTest, AnswersJsonForAListing) {
  const InspectedRepository repository = Honest();
  const std::string& file = repository.headers.at("model.safetensors");
  const nlohmann::json input = {
      {"trust_remote_code", false},
      {"files", {{{"path", "model.safetensors"}, {"size_bytes", file.size()}}}},
      {"config", repository.config_json},
      {"headers", {{"model.safetensors", absl::Base64Escape(file)}}}};

  const auto answer = RunInspect(input.dump());

  ASSERT_THAT(answer, IsOk());
  const auto inspection = InspectionFromJson(*answer);
  ASSERT_THAT(inspection, IsOk());
  EXPECT_TRUE(inspection->supported) << inspection->message;
  EXPECT_GT(inspection->parameters, 0);
}

TEST(InspectCommandTest, WhatIsNoInputIsAnError) {
  for (const char* input : {"", "[]", "{}", R"({"config":7})", R"({"config":"{}","files":[{}]})",
                            R"({"config":"{}","headers":{"x":"%%%"}})"}) {
    EXPECT_THAT(RunInspect(input), StatusIs(absl::StatusCode::kInvalidArgument)) << input;
  }
}

TEST(WeightSetTest, ExtraTensorIsNamed) {
  const TemporaryRepository repository;
  const ArchitectureConfig tied = ReadArchitectureConfig(LlamaConfig()).value();
  ArchitectureConfig biased = tied;
  biased.mlp_bias = true;
  repository.Write("model.safetensors", WeightsFor(biased));

  const auto weights = WeightSet::Open(repository.path(), tied);

  EXPECT_THAT(weights, HasReasonOf(Reason::kInvalidRepository));
  EXPECT_NE(std::string(weights.status().message()).find("mlp.up_proj.bias"), std::string::npos);
}

// Published repositories of tied models often store the head all the same.
TEST(WeightSetTest, StoredHeadOfATiedModelIsIgnored) {
  const TemporaryRepository repository;
  const ArchitectureConfig tied = ReadArchitectureConfig(LlamaConfig()).value();
  ArchitectureConfig untied = tied;
  untied.tie_word_embeddings = false;
  repository.Write("model.safetensors", WeightsFor(untied));

  const auto weights = WeightSet::Open(repository.path(), tied);

  ASSERT_THAT(weights, IsOk());
  EXPECT_FALSE(weights->tensors().contains("lm_head.weight"));
}

TEST(WeightSetTest, SameTensorInTwoFilesIsRefused) {
  const TemporaryRepository repository;
  const ArchitectureConfig config = ReadArchitectureConfig(LlamaConfig()).value();
  repository.Write("a.safetensors", WeightsFor(config));
  repository.Write("b.safetensors", WeightsFor(config));
  repository.Write("model.safetensors.index.json",
                   R"({"weight_map":{"x":"a.safetensors","y":"b.safetensors"}})");

  EXPECT_THAT(WeightSet::Open(repository.path(), config), HasReasonOf(Reason::kInvalidRepository));
}

}  // namespace
}  // namespace modeld
