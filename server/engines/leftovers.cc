#include "server/engines/leftovers.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <sstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/log.h"
#include "server/base/status.h"
#include "server/engines/child_process.h"

namespace modeld {
namespace {

constexpr std::string_view kPidSuffix = ".pid";

// Field 22 of /proc/PID/stat: ticks from boot to the start of the process; proc(5).
absl::StatusOr<std::string> StartTime(pid_t pid) {
  ASSIGN_OR_RETURN(const std::string stat, ReadFile(absl::StrCat("/proc/", pid, "/stat")));
  const size_t after_name = stat.rfind(')');
  if (after_name == std::string::npos) return absl::InternalError("no ')' in /proc/PID/stat");
  std::istringstream fields(stat.substr(after_name + 1));
  std::string field;
  for (int number = 3; number <= 22; ++number) fields >> field;
  return field;
}

// Whether the process is the engine that the pid file means: started then, for this socket.
bool IsEngine(pid_t pid, const std::string& start_time, const std::string& socket_path) {
  const absl::StatusOr<std::string> started = StartTime(pid);
  const absl::StatusOr<std::string> command = ReadFile(absl::StrCat("/proc/", pid, "/cmdline"));
  return started.ok() && *started == start_time && command.ok() &&
         command->find(socket_path) != std::string::npos;
}

// True when an engine was there and is no more.
bool EndEngine(const std::string& pid_path, const std::string& socket_path) {
  const absl::StatusOr<std::string> text = ReadFile(pid_path, 100);
  if (!text.ok()) return false;
  std::istringstream fields(*text);
  pid_t pid = 0;
  std::string start_time;
  if (!(fields >> pid >> start_time) || pid <= 1) return false;
  // The descriptor first: what it means stays the same process between the check and the signal.
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.valid() || !IsEngine(pid, start_time, socket_path)) return false;
  LogWarning("leftover_engine_ended", {{"pid", static_cast<int64_t>(pid)}});
  syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
  return WaitForEnd(pidfd.get(), std::chrono::seconds(10));
}

}  // namespace

absl::Status WritePidFile(const std::string& path, pid_t pid) {
  ASSIGN_OR_RETURN(const std::string start_time, StartTime(pid));
  return WriteFileAtomically(path, absl::StrCat(pid, " ", start_time, "\n"), 0600);
}

absl::StatusOr<int> EndLeftovers(const std::string& socket_dir) {
  namespace fs = std::filesystem;
  int ended = 0;
  std::error_code error;
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(socket_dir, error)) found.push_back(entry.path());
  if (error) return FileError(error.value(), "list", socket_dir);
  for (const std::string& path : found) {
    const std::string socket_path = path.substr(0, path.size() - kPidSuffix.size());
    if (path.ends_with(kPidSuffix)) {
      if (EndEngine(path, socket_path)) ++ended;
      unlink(socket_path.c_str());
      unlink(path.c_str());
    }
  }
  // Sockets whose pid file was not written in time.
  for (const std::string& path : found) {
    if (fs::is_socket(fs::symlink_status(path, error))) unlink(path.c_str());
  }
  return ended;
}

}  // namespace modeld
