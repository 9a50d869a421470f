// How much memory this process may use.
#pragma once

#include <cstdint>
#include <string>

namespace modeld {

// The smallest of physical memory and the limits of the process's cgroup (v2 or v1) and its
// parents. `root` is the folder that has proc/ and sys/ in it.
int64_t ProcessMemoryBytes(const std::string& root = "/");

}  // namespace modeld
