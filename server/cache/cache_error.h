// What a caller is told when a cache cannot be written: the contract's reason and the exact fix.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace modeld {

// `status` of a file operation below `cache_path` in the words of the contract: PERMISSION_DENIED
// becomes CACHE_NOT_WRITABLE with the command that helps, a full disk or quota INSUFFICIENT_DISK
// with `required_bytes` and what is free. Everything else, and OK, as it is.
absl::Status CacheError(const absl::Status& status, const std::string& cache_path,
                        int64_t required_bytes = 0);

}  // namespace modeld
