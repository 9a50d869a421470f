#include "server/engine/models/sentence_head.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/weight_file.h"
#include "server/engine/weights/weight_files.h"

namespace modeld {
namespace {

// torch.nn.LayerNorm's own.
constexpr double kNormEps = 1e-5;
constexpr double kLengthMin = 1e-12;

// `tokens` are those that count; `before` is how many precede them.
at::Tensor PoolBy(Pooling pooling, const at::Tensor& tokens, int64_t before) {
  const auto count = static_cast<double>(tokens.size(0));
  switch (pooling) {
    case Pooling::kFirst:
      return tokens[0];
    case Pooling::kLast:
      return tokens[tokens.size(0) - 1];
    case Pooling::kMax:
      return tokens.amax(0);
    case Pooling::kMean:
      return tokens.sum(0) / count;
    case Pooling::kMeanSquareRoot:
      return tokens.sum(0) / std::sqrt(count);
    case Pooling::kWeightedMean: {
      const at::Tensor weights =
          at::arange(before + 1, before + 1 + tokens.size(0), tokens.options()).unsqueeze(1);
      return (tokens * weights).sum(0) / weights.sum();
    }
  }
  TORCH_CHECK(false, "a pooling without a function");
}

at::Tensor Activate(DenseActivation activation, const at::Tensor& x) {
  switch (activation) {
    case DenseActivation::kNone:
      return x;
    case DenseActivation::kTanh:
      return at::tanh(x);
    case DenseActivation::kRelu:
      return at::relu(x);
    case DenseActivation::kGelu:
      return at::gelu(x);
    case DenseActivation::kSigmoid:
      return at::sigmoid(x);
    case DenseActivation::kSilu:
      return at::silu(x);
  }
  TORCH_CHECK(false, "an activation without a function");
}

// The weights of a module: "2_Dense/model.safetensors" or its older form.
absl::StatusOr<std::shared_ptr<const WeightFile>> OpenWeights(const std::string& snapshot_path,
                                                              const std::string& folder) {
  for (const char* file : {kSingleWeightFile, kSingleTorchFile}) {
    const std::string name = absl::StrCat(folder, "/", file);
    const std::string path = absl::StrCat(snapshot_path, "/", name);
    std::error_code ignored;  // an unreadable path is a file that is not there
    if (std::filesystem::exists(path, ignored)) return WeightFile::Open(path, name);
  }
  return Error(Reason::kInvalidRepository, absl::StrFormat("%s has neither %s nor %s", folder,
                                                           kSingleWeightFile, kSingleTorchFile));
}

absl::StatusOr<at::Tensor> ReadTensor(const std::shared_ptr<const WeightFile>& file,
                                      const std::string& folder, const std::string& name,
                                      const std::vector<int64_t>& shape, at::Device device) {
  const auto stored = file->table().tensors.find(name);
  const bool is_there = stored != file->table().tensors.end();
  if (!is_there || stored->second.shape != shape) {
    return Error(
        Reason::kInvalidRepository,
        absl::StrFormat("%s: tensor \"%s\" is %s instead of [%s]", folder, name,
                        is_there ? absl::StrCat("[", absl::StrJoin(stored->second.shape, ", "), "]")
                                 : "missing",
                        absl::StrJoin(shape, ", ")));
  }
  const std::string& dtype = stored->second.dtype;
  if (dtype != "F32" && dtype != "F16" && dtype != "BF16") {
    return Error(Reason::kUnsupportedWeights,
                 absl::StrFormat("%s: tensor \"%s\" has the dtype %s; F32, F16 and BF16 are "
                                 "supported",
                                 folder, name, dtype));
  }
  return MappedTensor(WeightSet::TensorOf(file, stored->second)).to(device, at::kFloat);
}

}  // namespace

at::Tensor Pool(const std::vector<Pooling>& poolings, const at::Tensor& tokens, int64_t left_out) {
  const int64_t count = tokens.size(0) - left_out;
  std::vector<at::Tensor> vectors;
  for (const Pooling pooling : poolings) {
    vectors.push_back(count > 0 ? PoolBy(pooling, tokens.narrow(0, left_out, count), left_out)
                                : at::zeros_like(tokens[0]));
  }
  return at::cat(vectors);
}

absl::StatusOr<SentenceHead::Module> SentenceHead::LoadModule(const SentenceModule& options,
                                                              const std::string& snapshot_path,
                                                              at::Device device) {
  Module module = {.options = options, .weight = {}, .bias = {}};
  if (options.kind == SentenceModule::Kind::kNormalize) return module;
  const bool is_dense = options.kind == SentenceModule::Kind::kDense;
  const std::string part = is_dense ? "linear." : "norm.";
  std::vector<int64_t> shape = {options.out_features};
  ASSIGN_OR_RETURN(const std::shared_ptr<const WeightFile> file,
                   OpenWeights(snapshot_path, options.folder));
  if (options.bias) {
    ASSIGN_OR_RETURN(module.bias, ReadTensor(file, options.folder, part + "bias", shape, device));
  }
  if (is_dense) shape.push_back(options.in_features);
  ASSIGN_OR_RETURN(module.weight, ReadTensor(file, options.folder, part + "weight", shape, device));
  return module;
}

absl::StatusOr<SentenceHead> SentenceHead::Load(const SentenceConfig& config,
                                                const std::string& snapshot_path,
                                                at::Device device) {
  SentenceHead head;
  head.poolings_ = config.poolings;
  head.pools_prompt_ = config.pools_prompt;
  for (const SentenceModule& options : config.modules) {
    ASSIGN_OR_RETURN(Module module, LoadModule(options, snapshot_path, device));
    head.modules_.push_back(std::move(module));
  }
  return head;
}

int64_t SentenceHead::bytes() const {
  int64_t elements = 0;
  for (const Module& module : modules_) {
    for (const at::Tensor& tensor : {module.weight, module.bias}) {
      if (tensor.defined()) elements += tensor.numel();
    }
  }
  return elements * static_cast<int64_t>(sizeof(float));
}

at::Tensor SentenceHead::operator()(const at::Tensor& tokens, int64_t prompt_tokens) const {
  const int64_t left_out = pools_prompt_ ? 0 : std::min(prompt_tokens, tokens.size(0));
  at::Tensor vector = Pool(poolings_, tokens.to(at::kFloat), left_out);
  for (const Module& module : modules_) {
    switch (module.options.kind) {
      case SentenceModule::Kind::kDense:
        vector = module.bias.defined() ? at::linear(vector, module.weight, module.bias)
                                       : at::linear(vector, module.weight);
        vector = Activate(module.options.activation, vector);
        break;
      case SentenceModule::Kind::kLayerNorm:
        vector =
            at::layer_norm(vector, module.weight.sizes(), module.weight, module.bias, kNormEps);
        break;
      case SentenceModule::Kind::kNormalize:
        vector = vector / vector.norm().clamp_min(kLengthMin);
        break;
    }
  }
  return vector;
}

}  // namespace modeld
