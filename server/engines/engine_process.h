// One `modeld-engine serve` process: its start, its words on stderr, its end.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/engines/child_process.h"

namespace modeld {

// Thread-safe. The engine ends when its control socket is closed: by CloseControl(), or by our own
// death. The destructor kills what is left and removes the socket.
class EngineProcess {
 public:
  struct Options {
    std::string program;
    std::string socket_dir;
    std::string instance_id;  // the socket's name
    std::string model_name;   // in front of each line that the engine says
  };
  // Called once, from a thread of ours, no lock held. Must not destroy the process.
  using OnExit = std::function<void()>;

  // FAILED_PRECONDITION when the socket's path has more than 107 bytes (sun_path); errors of
  // SpawnChild.
  static absl::StatusOr<std::unique_ptr<EngineProcess>> Start(const Options& options,
                                                              OnExit on_exit);
  ~EngineProcess();
  EngineProcess(const EngineProcess&) = delete;
  EngineProcess& operator=(const EngineProcess&) = delete;

  pid_t pid() const { return child_.pid; }
  const std::string& socket_path() const { return socket_path_; }

  bool exited() const;
  // False when it still runs after `timeout`.
  bool WaitExit(std::chrono::milliseconds timeout);
  // "signal 9 (Killed); it last said: ..." once it has exited, else "".
  std::string ExitText() const;

  void CloseControl();
  void Kill();
  // CloseControl(), and Kill() when that did not end it within `grace`. Returns after the end.
  void End(std::chrono::milliseconds grace);

 private:
  EngineProcess(const Options& options, std::string socket_path, OnExit on_exit);
  void Watch();
  void ReadStderr();
  void SayLine(const std::string& line);

  const Options options_;
  const std::string socket_path_;
  const std::string pid_path_;
  const OnExit on_exit_;
  Child child_;               // constant after Start()
  UniqueFd stderr_;           // our end, not blocking; the watcher's
  std::string partial_line_;  // the watcher's

  mutable Mutex mutex_;
  CondVar changed_;
  UniqueFd control_ ABSL_GUARDED_BY(mutex_);
  bool exited_ ABSL_GUARDED_BY(mutex_) = false;
  std::string exit_text_ ABSL_GUARDED_BY(mutex_);
  std::string last_line_ ABSL_GUARDED_BY(mutex_);

  std::jthread watcher_;  // last, so that it ends before what it uses
};

}  // namespace modeld
