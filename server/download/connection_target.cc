#include "server/download/connection_target.h"

#include <algorithm>

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Long enough to see a rate, short enough to have 16 connections within half a second.
constexpr milliseconds kWindow{100};
// A new level has so many windows to show that it helps; the first of them must show it clearly,
// since connections just begun have brought most of their cost and little of their use.
constexpr int kWindowsMax = 5;
constexpr double kHelpsClearly = 1.3;
constexpr double kHelps = 1.15;
// When this process has so much of the processors, more connections only have bytes come in a worse
// order.
constexpr double kBusyShare = 0.6;
constexpr seconds kHoldMin{4};
constexpr seconds kHoldMax{60};

}  // namespace

void ConnectionTarget::BeginWindow(Time now, const Sample& sample) {
  window_begin_ = now;
  window_bytes_ = sample.bytes;
  window_cpu_ = sample.cpu_seconds;
}

void ConnectionTarget::GoBack(Time now, int level) {
  level_ = proven_ = level;
  windows_ = 0;
  windows_sum_ = 0;
  hold_ = std::clamp(hold_ * 2, kHoldMin, kHoldMax);
  hold_until_ = now + hold_;
}

void ConnectionTarget::OnRefused(Time now) {
  failed_rate_ = 0;
  GoBack(now, std::max(1, level_ / 2));
}

bool ConnectionTarget::Helped(double rate) {
  ++windows_;
  if (windows_ == 1) {
    windows_sum_ = 0;
    return rate >= proven_rate_ * kHelpsClearly;
  }
  windows_sum_ += rate;
  return windows_sum_ / (windows_ - 1) >= proven_rate_ * kHelps;
}

// Whether what was gone back from turns out to have been better: a server that lets a connection
// begin fast makes the level before look good, and so does a line that got worse meanwhile.
bool ConnectionTarget::Regretted(double rate) {
  ++windows_;
  windows_sum_ += rate;
  if (windows_ < kWindowsMax) return false;
  const bool worse = windows_sum_ / windows_ * kHelps < failed_rate_;
  windows_ = 0;
  windows_sum_ = 0;
  return worse;
}

int ConnectionTarget::Tick(Time now, const Sample& sample) {
  const int base = std::clamp(sample.base, 1, sample.max);
  if (sample.busy == 0) {
    level_ = proven_ = base;
    hold_ = seconds(0);
    hold_until_ = now;
    BeginWindow(now, sample);
    return level_;
  }
  const bool held = hold_until_ > now;
  if (level_ < base && !held) level_ = proven_ = base;
  level_ = std::min(level_, sample.max);
  // The time until the first byte comes says nothing.
  if (sample.bytes == window_bytes_ && level_ == base) BeginWindow(now, sample);
  if (now - window_begin_ < kWindow) return level_;
  const double window_seconds = std::chrono::duration<double>(now - window_begin_).count();
  const double rate = static_cast<double>(sample.bytes - window_bytes_) / window_seconds;
  const double share = (sample.cpu_seconds - window_cpu_) / (window_seconds * sample.processors);
  BeginWindow(now, sample);

  if (level_ > proven_) {
    if (!Helped(rate)) {
      if (windows_ >= kWindowsMax) {
        failed_rate_ = windows_sum_ / (windows_ - 1);
        GoBack(now, proven_);
      }
      return level_;
    }
    proven_ = level_;
    hold_ = seconds(0);
  }
  if (held && Regretted(rate)) hold_until_ = now;
  // Only a level that is used says anything, and only one that is wanted is worth a try.
  const bool worth_a_try = rate > 0 && sample.hungry && !sample.limited && share < kBusyShare &&
                           now >= hold_until_ && sample.busy >= level_ && level_ < sample.max;
  if (worth_a_try) {
    proven_rate_ = rate;
    windows_ = 0;
    level_ = std::min(2 * level_, sample.max);
  }
  return level_;
}

}  // namespace modeld
