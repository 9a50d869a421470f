#include "server/engine/models/rope.h"

#include <ATen/ATen.h>

#include <numbers>

namespace modeld {
namespace {

// Llama 3.1: low frequencies are slowed down by `factor`, high ones stay, those between are mixed.
at::Tensor ScaleLlama3(const RopeConfig& config, const at::Tensor& inverse) {
  const auto context = static_cast<double>(config.original_context);
  const double low_wavelength = context / config.low_frequency_factor;
  const double high_wavelength = context / config.high_frequency_factor;
  const at::Tensor wavelength = 2 * std::numbers::pi / inverse;
  const at::Tensor slow = inverse / config.factor;
  const at::Tensor smooth = (context / wavelength - config.low_frequency_factor) /
                            (config.high_frequency_factor - config.low_frequency_factor);
  const at::Tensor mixed = (1 - smooth) * slow + smooth * inverse;
  const at::Tensor outer = at::where(wavelength > low_wavelength, slow, inverse);
  const at::Tensor between =
      at::logical_and(wavelength >= high_wavelength, wavelength <= low_wavelength);
  return at::where(between, mixed, outer);
}

}  // namespace

Rope::Rope(const RopeConfig& config, int64_t head_dim, at::Device device) {
  const at::Tensor exponents = at::arange(0, head_dim, 2, at::kLong).to(at::kFloat) / head_dim;
  at::Tensor inverse = 1.0 / at::pow(config.theta, exponents);
  if (config.kind == RopeConfig::Kind::kLinear) inverse = inverse / config.factor;
  if (config.kind == RopeConfig::Kind::kLlama3) inverse = ScaleLlama3(config, inverse);
  inverse_frequencies_ = inverse.to(device);
}

std::pair<at::Tensor, at::Tensor> Rope::CosSin(const std::vector<int64_t>& positions,
                                               at::ScalarType dtype) const {
  const at::Tensor rows =
      at::tensor(positions, at::kLong).to(inverse_frequencies_.device()).to(at::kFloat);
  const at::Tensor half = rows.unsqueeze(1) * inverse_frequencies_;  // [rows, head_dim / 2]
  const at::Tensor angles = at::cat({half, half}, 1).unsqueeze(1);
  return {angles.cos().to(dtype), angles.sin().to(dtype)};
}

at::Tensor ApplyRope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor turned = at::cat({x.narrow(-1, half, half).neg(), x.narrow(-1, 0, half)}, -1);
  return x * cos + turned * sin;
}

}  // namespace modeld
