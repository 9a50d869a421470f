#include "server/engine/models/rope.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
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

// Frequencies that turn often within the original context stay, those that turn rarely are slowed
// down by `factor`, with a ramp between (https://arxiv.org/abs/2309.00071).
at::Tensor ScaleYarn(const RopeConfig& config, const at::Tensor& inverse) {
  const auto dim = static_cast<double>(config.rotary_dim);
  const auto context = static_cast<double>(config.original_context);
  const auto index_of = [&](double rotations) {
    return dim * std::log(context / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(config.theta));
  };
  double low = index_of(config.beta_fast);
  double high = index_of(config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  const at::Tensor index = at::arange(config.rotary_dim / 2, at::kFloat);
  const at::Tensor keep = 1 - at::clamp((index - low) / (high - low), 0, 1);
  return inverse / config.factor * (1 - keep) + inverse * keep;
}

at::Tensor ScaleEach(const std::vector<double>& factors, const at::Tensor& inverse) {
  return inverse / at::tensor(factors, at::kDouble).to(at::kFloat);
}

}  // namespace

Rope::Rope(const RopeConfig& config, at::Device device)
    : original_context_(config.original_context), attention_factor_(config.attention_factor) {
  const at::Tensor exponents =
      at::arange(0, config.rotary_dim, 2, at::kLong).to(at::kFloat) / config.rotary_dim;
  at::Tensor inverse = 1.0 / at::pow(config.theta, exponents);
  switch (config.kind) {
    case RopeConfig::Kind::kDefault:
      break;
    case RopeConfig::Kind::kLinear:
      inverse = inverse / config.factor;
      break;
    case RopeConfig::Kind::kLlama3:
      inverse = ScaleLlama3(config, inverse);
      break;
    case RopeConfig::Kind::kYarn:
      inverse = ScaleYarn(config, inverse);
      break;
    case RopeConfig::Kind::kProportional:
      inverse = inverse / config.factor;
      inverse.slice(0, config.turned_dim / 2).zero_();
      break;
    case RopeConfig::Kind::kLongRope:
      inverse = at::stack(
          {ScaleEach(config.short_factors, inverse), ScaleEach(config.long_factors, inverse)});
      break;
  }
  inverse_frequencies_ = inverse.view({-1, config.rotary_dim / 2}).to(device);
}

Turns Rope::At(const std::vector<int64_t>& positions, const std::vector<int64_t>& lengths,
               at::ScalarType dtype) const {
  const at::Device device = inverse_frequencies_.device();
  at::Tensor inverse = inverse_frequencies_;
  if (inverse.size(0) > 1) {
    std::vector<int64_t> set;
    for (const int64_t length : lengths) set.push_back(length > original_context_ ? 1 : 0);
    inverse = inverse.index_select(0, at::tensor(set, at::kLong).to(device));
  }
  const at::Tensor rows = at::tensor(positions, at::kLong).to(device).to(at::kFloat);
  const at::Tensor half = rows.unsqueeze(1) * inverse;  // [rows, rotary_dim / 2]
  const at::Tensor angles = at::cat({half, half}, 1).unsqueeze(1);
  return {(angles.cos() * attention_factor_).to(dtype),
          (angles.sin() * attention_factor_).to(dtype)};
}

at::Tensor ApplyRope(const at::Tensor& x, const Turns& turns, bool interleaved) {
  const int64_t dim = turns.cos.size(-1);
  const int64_t half = dim / 2;
  at::Tensor turned = x.narrow(-1, 0, dim);
  if (interleaved) {
    // Cosines repeat as halves; pairs of neighbours take the first half of them each.
    const at::Tensor pairs = turned.unflatten(-1, {half, 2});
    const at::Tensor even = pairs.select(-1, 0);
    const at::Tensor odd = pairs.select(-1, 1);
    const at::Tensor cos = turns.cos.narrow(-1, 0, half);
    const at::Tensor sin = turns.sin.narrow(-1, 0, half);
    turned = at::stack({even * cos - odd * sin, odd * cos + even * sin}, -1).flatten(-2);
  } else {
    const at::Tensor crossed =
        at::cat({turned.narrow(-1, half, half).neg(), turned.narrow(-1, 0, half)}, -1);
    turned = turned * turns.cos + crossed * turns.sin;
  }
  turned = turned.to(x.scalar_type());
  if (dim == x.size(-1)) return turned;
  return at::cat({turned, x.narrow(-1, dim, x.size(-1) - dim)}, -1);
}

}  // namespace modeld
