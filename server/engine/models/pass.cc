#include "server/engine/models/pass.h"

#include <ATen/ATen.h>

namespace modeld {

void Pass::MoveTo(at::Device device) {
  const auto move = [&](at::Tensor& x) {
    if (x.defined()) x = x.to(device);
  };
  for (Turns& turn : turns) {
    move(turn.cos);
    move(turn.sin);
  }
  for (RowGroup& group : groups) {
    move(group.rows);
    move(group.slots);
    move(group.fresh);
  }
  move(query_scale);
  move(layer_inputs);
  move(distance_logits);
}

}  // namespace modeld
