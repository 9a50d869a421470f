// Pid files of engines, and the end of engines that outlived their daemon.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

// Writes "pid starttime" of a running process.
absl::Status WritePidFile(const std::string& path, pid_t pid);

// Ends the engines that an earlier daemon left in `socket_dir` and removes their sockets and pid
// files. A pid that now belongs to another program (start time, command line) is left alone.
// Answers how many were ended.
absl::StatusOr<int> EndLeftovers(const std::string& socket_dir);

}  // namespace modeld
