#include "server/download/connection_target.h"

#include <algorithm>

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Long enough to see a rate, short enough to have 16 connections within a second.
constexpr milliseconds kWindow{150};
// A new level has so many windows to show that it helps; the first of them must show it clearly,
// since connections just begun have brought most of their cost and little of their use.
constexpr int kWindowsMax = 4;
constexpr double kHelpsClearly = 1.3;
constexpr double kHelps = 1.15;
constexpr seconds kHoldMin{4};
constexpr seconds kHoldMax{60};

}  // namespace

void ConnectionTarget::GoBack(Time now, int level) {
  level_ = proven_ = level;
  windows_ = 0;
  hold_ = std::clamp(hold_ * 2, kHoldMin, kHoldMax);
  hold_until_ = now + hold_;
}

void ConnectionTarget::OnRefused(Time now) { GoBack(now, std::max(1, level_ / 2)); }

bool ConnectionTarget::Helped(double rate) {
  ++windows_;
  if (windows_ == 1) {
    windows_sum_ = 0;
    return rate >= proven_rate_ * kHelpsClearly;
  }
  windows_sum_ += rate;
  return windows_sum_ / (windows_ - 1) >= proven_rate_ * kHelps;
}

int ConnectionTarget::Tick(Time now, const Sample& sample) {
  const int base = std::clamp(sample.base, 1, sample.max);
  if (sample.busy == 0) {
    level_ = proven_ = base;
    hold_ = seconds(0);
    hold_until_ = window_begin_ = now;
    window_bytes_ = sample.bytes;
    return level_;
  }
  const bool refused_lately = hold_until_ > now;
  if (level_ < base && !refused_lately) level_ = proven_ = base;
  level_ = std::min(level_, sample.max);
  if (now - window_begin_ < kWindow) return level_;
  const double rate = static_cast<double>(sample.bytes - window_bytes_) /
                      std::chrono::duration<double>(now - window_begin_).count();
  window_begin_ = now;
  window_bytes_ = sample.bytes;

  if (level_ > proven_) {
    if (!Helped(rate)) {
      if (windows_ >= kWindowsMax) GoBack(now, proven_);
      return level_;
    }
    proven_ = level_;
    hold_ = seconds(0);
  }
  // Only a level that is used says anything, and only one that is wanted is worth a try.
  const bool worth_a_try = rate > 0 && sample.hungry && !sample.limited && now >= hold_until_ &&
                           sample.busy >= level_ && level_ < sample.max;
  if (worth_a_try) {
    proven_rate_ = rate;
    windows_ = 0;
    level_ = std::min(2 * level_, sample.max);
  }
  return level_;
}

}  // namespace modeld
