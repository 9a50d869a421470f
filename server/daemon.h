// The daemon put together: everything that main() makes, in the order of the layers.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/config.h"

namespace modeld {

// One for a process. Start() binds the sockets and answers at once, also while the database is
// away; Run() brings the database up, then works until SIGTERM or SIGINT, then drains.
class Daemon {
 public:
  // Takes the lock of the state directory (FAILED_PRECONDITION when another daemon has it), binds
  // the sockets and writes <state_dir>/endpoints.json. SIGTERM and SIGINT are blocked already.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const Config& config);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Returns when everything has ended. An error when the database's schema cannot be brought up to
  // date.
  absl::Status Run();

 private:
  struct Rep;
  explicit Daemon(std::unique_ptr<Rep> rep);
  void WaitForStop();
  void Drain();

  const std::unique_ptr<Rep> rep_;
};

// "modeld 0.1.0 (commit)".
std::string VersionText();

}  // namespace modeld
