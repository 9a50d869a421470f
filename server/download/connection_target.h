// How many connections large files get: as many as help.
#pragma once

#include <chrono>
#include <cstdint>

namespace modeld {

// Climbs by doubling while what all connections bring together grows for it, and goes back when it
// does not: few connections are best where the processor is the limit, since bytes that come in
// order are hashed from memory, and many where each connection is. Driven by Tick() with the
// caller's time. One thread at a time.
class ConnectionTarget {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // What is seen at one moment.
  struct Sample {
    int64_t bytes = 0;       // received so far, of large files
    double cpu_seconds = 0;  // that this process has used so far
    int processors = 1;      // that it may use
    int busy = 0;            // connections at work on large files
    int base = 1;            // what to begin with
    int max = 1;             // of all connections
    bool hungry = false;     // more connections would find work
    bool limited = false;    // by a bandwidth limit: more connections cannot help
  };

  // How many connections there may be now.
  int Tick(Time now, const Sample& sample);
  // A host refused a connection more: half of them.
  void OnRefused(Time now);
  int level() const { return level_; }

 private:
  void BeginWindow(Time now, const Sample& sample);
  void GoBack(Time now, int level);
  bool Helped(double rate);
  bool Regretted(double rate);

  int level_ = 1;
  int proven_ = 1;          // the level that was good before level_ was tried
  double proven_rate_ = 0;  // what it brought
  int windows_ = 0;         // since level_ was tried
  double windows_sum_ = 0;  // of their rates
  Time window_begin_{};
  int64_t window_bytes_ = 0;
  double window_cpu_ = 0;
  double failed_rate_ = 0;  // of the level that was gone back from
  Time hold_until_{};       // nothing is tried before
  std::chrono::seconds hold_{0};
};

}  // namespace modeld
