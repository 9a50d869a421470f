#include "server/engine/kernels/attention_tile.h"

namespace modeld::generic {
#include "server/engine/kernels/attention_tile.inc"
}  // namespace modeld::generic
