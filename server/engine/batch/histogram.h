// A histogram as engine.proto carries it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace modeld {

// Observations by bucket, not cumulative. One thread at a time.
struct Histogram {
  explicit Histogram(std::vector<double> upper_bounds)
      : bounds(std::move(upper_bounds)), counts(bounds.size() + 1) {}

  // A value on a bound belongs to that bound's bucket, as Prometheus has it.
  void Observe(double value) {
    ++counts[std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin()];
    sum += value;
  }

  std::vector<double> bounds;   // rising, in seconds
  std::vector<int64_t> counts;  // the last one is above every bound
  double sum = 0;
};

}  // namespace modeld
