#include "server/engine/kernels/attention_tile.h"

namespace modeld::avx512 {
#include "server/engine/kernels/attention_tile.inc"
}  // namespace modeld::avx512
