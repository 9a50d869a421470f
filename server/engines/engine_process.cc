#include "server/engines/engine_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/log.h"
#include "server/base/status.h"
#include "server/engines/leftovers.h"

namespace modeld {
namespace {

constexpr int kControlFd = 3;
constexpr size_t kSocketPathMax = sizeof(sockaddr_un::sun_path) - 1;
constexpr size_t kLineBytesMax = 4000;  // a longer line is said in parts

}  // namespace

EngineProcess::EngineProcess(const Options& options, std::string socket_path, OnExit on_exit)
    : options_(options),
      socket_path_(std::move(socket_path)),
      pid_path_(socket_path_ + ".pid"),
      on_exit_(std::move(on_exit)) {}

absl::StatusOr<std::unique_ptr<EngineProcess>> EngineProcess::Start(const Options& options,
                                                                    OnExit on_exit) {
  const std::string socket_path = options.socket_dir + "/" + options.instance_id;
  if (socket_path.size() > kSocketPathMax) {
    return absl::FailedPreconditionError(
        absl::StrCat("engine.socket_dir is too long: ", socket_path, " has ", socket_path.size(),
                     " bytes, a socket's path at most ", kSocketPathMax));
  }
  std::unique_ptr<EngineProcess> process(
      new EngineProcess(options, socket_path, std::move(on_exit)));
  int control[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) != 0) {
    return FileError(errno, "make", "a socket pair");
  }
  UniqueFd ours(control[0]);
  const UniqueFd theirs(control[1]);
  ASSIGN_OR_RETURN(Pipe words, MakePipe());
  ASSIGN_OR_RETURN(const UniqueFd nothing, OpenFile("/dev/null", O_RDONLY));
  ASSIGN_OR_RETURN(process->child_,
                   SpawnChild({.arguments = {options.program, "serve", "--socket", socket_path,
                                             "--control-fd", std::to_string(kControlFd)},
                               .environment = ChildEnvironment(environ),
                               .descriptors = {{nothing.get(), STDIN_FILENO},
                                               {words.write.get(), STDOUT_FILENO},
                                               {words.write.get(), STDERR_FILENO},
                                               {theirs.get(), kControlFd}}}));
  fcntl(words.read.get(), F_SETFL, O_NONBLOCK);
  process->stderr_ = std::move(words.read);
  {
    MutexLock lock(process->mutex_);
    process->control_ = std::move(ours);
  }
  // Without its pid file a leftover still ends by itself, when our end of the control socket
  // closes.
  if (const absl::Status status = WritePidFile(process->pid_path_, process->child_.pid);
      !status.ok()) {
    LogWarning("engine_pid_file_failed", {{"error", status}});
  }
  process->watcher_ = std::jthread([raw = process.get()] { raw->Watch(); });
  return process;
}

EngineProcess::~EngineProcess() {
  if (!child_.pidfd.valid()) return;
  Kill();
  watcher_.join();
  unlink(socket_path_.c_str());
  unlink(pid_path_.c_str());
}

void EngineProcess::Watch() {
  while (true) {
    std::array<pollfd, 2> wanted{{{child_.pidfd.get(), POLLIN, 0}, {stderr_.get(), POLLIN, 0}}};
    if (poll(wanted.data(), wanted.size(), -1) < 0 && errno != EINTR) break;
    if (wanted[1].revents != 0) ReadStderr();
    if (wanted[0].revents != 0) break;
  }
  ReadStderr();
  if (!partial_line_.empty()) SayLine(std::exchange(partial_line_, ""));
  std::string how = ReapChild(child_);
  {
    MutexLock lock(mutex_);
    exit_text_ = std::move(how);
    if (!last_line_.empty()) absl::StrAppend(&exit_text_, "; it last said: ", last_line_);
    exited_ = true;
    changed_.NotifyAll();
  }
  on_exit_();
}

void EngineProcess::ReadStderr() {
  if (!stderr_.valid()) return;
  std::array<char, 4096> buffer;
  while (true) {
    const ssize_t count = read(stderr_.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) stderr_.Reset();  // poll ignores a descriptor of -1
    if (count <= 0) return;
    for (const char c : std::string_view(buffer.data(), static_cast<size_t>(count))) {
      if (c != '\n') partial_line_ += c;
      if (c == '\n' || partial_line_.size() >= kLineBytesMax)
        SayLine(std::exchange(partial_line_, ""));
    }
  }
}

void EngineProcess::SayLine(const std::string& line) {
  const std::string text =
      absl::StrCat("engine[", options_.model_name, " ", child_.pid, "] ", line, "\n");
  // One write, so that lines of several engines do not mix. A stderr that is gone must not stop us.
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;
  if (line.empty()) return;
  MutexLock lock(mutex_);
  last_line_ = line;
}

bool EngineProcess::exited() const {
  MutexLock lock(mutex_);
  return exited_;
}

bool EngineProcess::WaitExit(std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(mutex_);
  while (!exited_) {
    if (!changed_.WaitUntil(mutex_, deadline)) return exited_;
  }
  return true;
}

std::string EngineProcess::ExitText() const {
  MutexLock lock(mutex_);
  return exit_text_;
}

void EngineProcess::CloseControl() {
  MutexLock lock(mutex_);
  control_.Reset();
}

void EngineProcess::Kill() {
  CloseControl();
  MutexLock lock(mutex_);
  // The watcher reaps before it sets exited_, and pidfd_send_signal would be as good: a signal by
  // pid is safe while the child is not reaped, so ask the descriptor whether it is.
  if (!exited_ && !WaitForEnd(child_.pidfd.get(), std::chrono::milliseconds(0))) {
    kill(child_.pid, SIGKILL);
  }
}

void EngineProcess::End(std::chrono::milliseconds grace) {
  CloseControl();
  if (WaitExit(grace)) return;
  LogWarning("engine_killed",
             {{"model", options_.model_name}, {"pid", static_cast<int64_t>(child_.pid)}});
  Kill();
  // SIGKILL cannot be refused; a process in an uninterruptible read may need a while.
  WaitExit(std::chrono::seconds(10));
}

}  // namespace modeld
