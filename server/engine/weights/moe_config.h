// Mixtures of experts, as config.json says.
#pragma once

#include <cstdint>

namespace modeld {

// How the matrices of the experts are stored.
enum class ExpertsLayout {
  kSeparate,
  kStacked,      // all experts in one tensor [experts, out, in], gate above up
  kInterleaved,  // in one tensor [experts, in, out], gate and up in turns, with biases; the router
                 // has one too
};

// How a mixture of experts weighs them.
struct MoeConfig {
  enum class Scoring { kSoftmax, kSigmoid, kSoftmaxOfTop };

  int64_t num_experts = 0;  // 0: no layer is a mixture
  int64_t experts_per_token = 0;
  int64_t intermediate_size = 0;         // of one expert
  int64_t shared_intermediate_size = 0;  // of the expert that sees every token, 0: none
  bool shared_gate = false;              // the shared expert's output is weighed by a sigmoid
  Scoring scoring = Scoring::kSoftmax;
  bool normalize = false;     // chosen weights sum to 1
  bool choice_bias = false;   // a bias for choosing only, "e_score_correction_bias"
  bool exact_router = false;  // float32, whatever the dtype of the model
  int64_t groups = 1;         // experts are chosen from the best groups only
  int64_t groups_per_token = 1;
  bool group_score_of_two = true;  // a group counts by its two best experts, else by the best
  double group_hidden_score = 0;   // of experts in other groups
  double scale = 1;                // of the chosen weights
  ExpertsLayout layout = ExpertsLayout::kSeparate;
  bool mxfp4 = false;          // kInterleaved in four bits, with a scale for each 32
  bool shared_fused = false;   // gate and up of the shared expert are one matrix
  bool scaled_router = false;  // it has a norm and scales of its own, also of chosen weights
};

}  // namespace modeld
