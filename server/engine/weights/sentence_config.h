// The files of sentence-transformers: how the vectors of a text's tokens become the text's.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/weights/config.h"

namespace modeld {

inline constexpr char kModulesFile[] = "modules.json";

enum class Pooling {
  kFirst,           // the first token's vector
  kMax,             // of each component
  kMean,            // of all tokens
  kMeanSquareRoot,  // the sum over the square root of their number
  kWeightedMean,    // later tokens count more: the n-th n times
  kLast,
};

enum class DenseActivation { kNone, kTanh, kRelu, kGelu, kSigmoid, kSilu };

// What follows pooling.
struct SentenceModule {
  enum class Kind { kDense, kLayerNorm, kNormalize };

  Kind kind = Kind::kDense;
  std::string folder;                                   // in the repository; with weights
  int64_t in_features = 0;                              // kDense
  int64_t out_features = 0;                             // kDense; else those that come in
  bool bias = true;                                     // kDense
  DenseActivation activation = DenseActivation::kTanh;  // kDense
};

struct SentenceConfig {
  std::vector<Pooling> poolings = {Pooling::kMean};  // their vectors one after the other
  bool pools_prompt = true;                          // whether tokens of the prompt count
  std::vector<SentenceModule> modules;  // without a kNormalize at the end, which is `normalize`
  bool normalize = false;               // vectors have length 1
  int64_t dimensions = 0;               // of a vector
  int64_t max_tokens = 0;               // what is longer is cut off; 0: says nothing
  std::map<std::string, std::string> prompts;  // by name; they go before a text
  std::string default_prompt;                  // name, may be empty
};

// The text of a file of the repository, nothing when it is not there.
using SmallFiles =
    std::function<absl::StatusOr<std::optional<std::string>>(const std::string& path)>;

// What sentence-transformers makes of modules.json and the files that it names; without it the mean
// of all tokens, as for any encoder. `config` is the model's. INVALID_REPOSITORY for files that
// contradict themselves or each other, UNSUPPORTED_ARCHITECTURE naming a module that is not known.
absl::StatusOr<SentenceConfig> ReadSentenceConfig(const SmallFiles& files,
                                                  const ArchitectureConfig& config);

// Reads below a snapshot's folder.
SmallFiles FilesBelow(const std::string& snapshot_path);

}  // namespace modeld
