#include "server/engine/kernels/attention_tile.h"

namespace modeld::avx2 {
#include "server/engine/kernels/attention_tile.inc"
}  // namespace modeld::avx2
