// What the fake engine is told to do: a JSON object in `<argv[0]>.json`, and over it the one in
// `<snapshot>/fake_engine.json`. Tests link the program into a folder of their own and write the
// file beside it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace modeld {

// A field that the script lacks keeps its default; -1 means never.
struct FakeEngineScript {
  bool start_crash =
      false;  // "start_crash": ends with status 3 and a line on stderr, before it listens
  bool start_hang = false;    // never listens
  bool ignore_eof = false;    // goes on when the daemon is gone
  bool ignore_drain = false;  // Drain answers never

  int64_t load_steps = 4;        // messages of PHASE_READING
  int64_t load_step_ms = 0;      // pause before each
  int64_t load_crash_step = -1;  // abort() instead of this step
  bool load_hang = false;        // Load answers never
  std::string load_error;        // a reason of the contract; Load fails with it
  std::string load_gate;         // Load waits until this file exists

  std::string device;  // reported; default: the one with the largest budget
  int64_t weights_bytes = 1'000'000;
  int64_t kv_cache_bytes = 200'000;
  int64_t workspace_bytes = 30'000;
  int64_t max_context = 2048;  // reported when the request has 0
  int64_t sequences_max = 16;

  int64_t tokens = 16;  // of an answer, unless max_tokens is smaller or ignore_eos is set
  int64_t token_ms = 0;
  int64_t crash_after_tokens = -1;  // abort()
  int64_t hang_after_tokens = -1;   // the stream stays open and silent
  bool no_chat_template = false;

  int64_t stats_ms = 1000;
  int64_t active_requests = -1;  // reported; -1: the real figure
  int64_t waiting_requests = 0;  // reported
  std::string report;            // at Load writes
                       // {"environment":[],"descriptors":[],"arguments":[],"load":{}} to this file
};

// The defaults where there is no file; INVALID_ARGUMENT for a file that is no such JSON.
absl::StatusOr<FakeEngineScript> ReadScript(const std::string& program_path,
                                            const std::string& snapshot_path);

}  // namespace modeld
