// A mixture of experts in the place of a feed-forward network.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "server/engine/models/blocks.h"

namespace modeld {

class Moe {
 public:
  Moe(const TensorSource& source, const std::string& prefix, const ArchitectureConfig& config);

  at::Tensor operator()(const at::Tensor& x) const { return (*this)(x, x); }  // [rows, hidden]
  // Experts are chosen by `for_choice`.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& for_choice) const;

 private:
  // The experts of each row and their weights, int64 and float32 [rows, experts_per_token].
  struct Choice {
    at::Tensor experts;
    at::Tensor weights;
  };
  void ReadStackedExperts(const TensorSource& source, const std::string& prefix,
                          const ArchitectureConfig& config);
  void ReadInterleavedExperts(const TensorSource& source, const std::string& prefix,
                              const ArchitectureConfig& config);
  at::Tensor Scaled(const at::Tensor& x) const;  // for the router
  Choice Choose(const at::Tensor& rows) const;
  // `scores` without the experts outside of each row's best groups.
  at::Tensor OfBestGroups(const at::Tensor& scores) const;

  const MoeConfig options_;
  at::Tensor router_;       // [experts, hidden]
  at::Tensor router_bias_;  // [experts], may be undefined
  at::Tensor choice_bias_;  // float32 [experts], may be undefined
  // With scaled_router.
  at::Tensor input_scale_;   // [hidden]
  at::Tensor expert_scale_;  // [experts]
  const double norm_eps_;
  std::vector<Mlp> experts_;
  Mlp shared_;
  Linear shared_gate_;
};

}  // namespace modeld
