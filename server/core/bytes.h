// Sizes as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace modeld {

// "512 B", "14.2 GB": powers of 1000, as the Hugging Face Hub and disks count.
std::string FormatBytes(int64_t bytes);

}  // namespace modeld
