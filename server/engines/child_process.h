// Child programs: started with exactly the descriptors and the environment that are named, watched
// by pidfd.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/file.h"

namespace modeld {

// All other descriptors of the child are closed, its standard ones /dev/null where they are not
// named.
struct ChildCommand {
  std::vector<std::string> arguments;            // arguments[0] is the program's path
  std::vector<std::string> environment;          // "NAME=value"
  std::vector<std::pair<int, int>> descriptors;  // ours -> the child's number
};

struct Child {
  pid_t pid = 0;
  UniqueFd pidfd;  // readable once the child has ended
};

// Of `environment` what an engine may see: PATH, LANG, TZ, and CUDA_*, NVIDIA_*, OMP_*,
// MODELD_ENGINE_*. No token, no database password. OMP_WAIT_POLICY is passive unless it is given.
std::vector<std::string> ChildEnvironment(const char* const* environment);

// posix_spawn in a process group of its own (a terminal's Ctrl-C must not reach it before we
// drained it), no signal blocked. NOT_FOUND, PERMISSION_DENIED or INTERNAL naming the program.
absl::StatusOr<Child> SpawnChild(const ChildCommand& command);

// Whether the process of `pidfd` ended within `timeout`.
bool WaitForEnd(int pidfd, std::chrono::milliseconds timeout);

// How a child ended: "exit status 3", "signal 9 (Killed)". Takes the child's status away; call it
// once, after its end.
std::string ReapChild(const Child& child);

// A pipe, both ends close-on-exec.
struct Pipe {
  UniqueFd read;
  UniqueFd write;
};
absl::StatusOr<Pipe> MakePipe();

}  // namespace modeld
