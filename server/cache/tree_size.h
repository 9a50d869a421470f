// Space that files take on disk.
#pragma once

#include <cstdint>
#include <string>

namespace modeld {

// Allocated bytes (st_blocks) of `path` and all below it, without following links; 0 when there is
// nothing. Entries that go away meanwhile count as nothing.
int64_t AllocatedBytes(const std::string& path);

// Removes `path` and all below it, without following links, and says how many bytes that freed: a
// file with another hard link frees none. What cannot be removed stays and is not counted.
int64_t RemoveTree(const std::string& path);

}  // namespace modeld
