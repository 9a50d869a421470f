#include "server/engines/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace modeld {
namespace {

constexpr std::string_view kNames[] = {"PATH", "LANG", "TZ"};
constexpr std::string_view kPrefixes[] = {"CUDA_", "NVIDIA_", "OMP_", "MODELD_ENGINE_"};

bool MaySee(std::string_view entry) {
  const std::string_view name = entry.substr(0, entry.find('='));
  return std::ranges::find(kNames, name) != std::end(kNames) ||
         std::ranges::any_of(kPrefixes, [&](auto prefix) { return name.starts_with(prefix); });
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& string : strings) pointers.push_back(const_cast<char*>(string.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// The attributes and file actions of one spawn.
class SpawnSetup {
 public:
  SpawnSetup() {
    posix_spawnattr_init(&attributes_);
    posix_spawn_file_actions_init(&actions_);
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  ~SpawnSetup() {
    posix_spawnattr_destroy(&attributes_);
    posix_spawn_file_actions_destroy(&actions_);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;

  posix_spawnattr_t attributes_;
  posix_spawn_file_actions_t actions_;
};

}  // namespace

std::vector<std::string> ChildEnvironment(const char* const* environment) {
  std::vector<std::string> kept;
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    if (MaySee(*environment)) kept.emplace_back(*environment);
  }
  // libgomp reads it before main(). Its threads spin by default, which starves everything else of
  // the machine between two steps.
  const bool chosen = std::ranges::any_of(
      kept, [](const std::string& entry) { return entry.starts_with("OMP_WAIT_POLICY="); });
  if (!chosen) kept.emplace_back("OMP_WAIT_POLICY=passive");
  return kept;
}

absl::StatusOr<Child> SpawnChild(const ChildCommand& command) {
  // Sources above every target, so that no dup2 overwrites the source of a later one.
  constexpr int kAboveTargets = 64;
  const std::string& program = command.arguments.front();
  SpawnSetup setup;
  std::vector<UniqueFd> sources;
  int highest = STDERR_FILENO;
  for (const auto& [ours, theirs] : command.descriptors) {
    sources.emplace_back(fcntl(ours, F_DUPFD_CLOEXEC, kAboveTargets));
    if (!sources.back().valid()) return FileError(errno, "duplicate a descriptor for", program);
    posix_spawn_file_actions_adddup2(&setup.actions_, sources.back().get(), theirs);
    highest = std::max(highest, theirs);
  }
  for (int number = 0; number <= highest; ++number) {
    const auto is_it = [&](const auto& pair) { return pair.second == number; };
    if (std::ranges::any_of(command.descriptors, is_it)) continue;
    // A program expects its three standard descriptors to be open.
    if (number <= STDERR_FILENO) {
      posix_spawn_file_actions_addopen(&setup.actions_, number, "/dev/null", O_RDWR, 0);
    } else {
      posix_spawn_file_actions_addclose(&setup.actions_, number);
    }
  }
  posix_spawn_file_actions_addclosefrom_np(&setup.actions_, highest + 1);
  const std::vector<char*> arguments = Pointers(command.arguments);
  const std::vector<char*> environment = Pointers(command.environment);
  Child child;
  const int error = posix_spawn(&child.pid, program.c_str(), &setup.actions_, &setup.attributes_,
                                arguments.data(), environment.data());
  if (error != 0) return FileError(error, "start", program);
  // Nobody but us reaps the child, so the pid is still its own.
  child.pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, child.pid, 0)));
  if (!child.pidfd.valid()) {
    const int reason = errno;
    kill(child.pid, SIGKILL);
    waitpid(child.pid, nullptr, 0);
    return FileError(reason, "pidfd_open", program);
  }
  return child;
}

bool WaitForEnd(int pidfd, std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd wanted{pidfd, POLLIN, 0};
    const int ready = poll(&wanted, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

std::string ReapChild(const Child& child) {
  int status = 0;
  while (waitpid(child.pid, &status, 0) < 0) {
    if (errno != EINTR) return "an unknown status";
  }
  if (WIFSIGNALED(status)) {
    const char* name = sigdescr_np(WTERMSIG(status));
    return absl::StrCat("signal ", WTERMSIG(status), " (", name == nullptr ? "unknown" : name, ")");
  }
  return absl::StrCat("exit status ", WEXITSTATUS(status));
}

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return FileError(errno, "make", "a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace modeld
