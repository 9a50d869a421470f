// Space that files take on disk.
#pragma once

#include <cstdint>
#include <string>

namespace modeld {

// Allocated bytes (st_blocks) of `path` and all below it, without following links, a file with
// several names once; 0 when there is nothing. Entries that go away meanwhile count as nothing.
int64_t AllocatedBytes(const std::string& path);

}  // namespace modeld
