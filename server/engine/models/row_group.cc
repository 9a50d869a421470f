#include "server/engine/models/row_group.h"

#include <ATen/ATen.h>

#include <map>

namespace modeld {

at::Tensor RowGroup::RowsOf(const at::Tensor& x) const {
  return x.index_select(0, rows).unflatten(0, {segments, length});
}

at::Tensor RowGroup::StateOf(const at::Tensor& pool) const {
  const at::Tensor state = pool.index_select(0, slots);
  if (!fresh.defined()) return state;
  std::vector<int64_t> shape(pool.dim(), 1);
  shape[0] = segments;
  // A slot has what its last sequence left there, which may be no number.
  return state.masked_fill(fresh.view(shape), 0);
}

std::vector<RowGroup> GroupRows(std::span<const KvRows> segments, std::span<const int64_t> slots,
                                at::Device device) {
  std::map<int64_t, std::vector<size_t>> by_length;
  for (size_t i = 0; i < segments.size(); ++i) by_length[segments[i].rows].push_back(i);
  std::vector<RowGroup> groups;
  for (const auto& [length, members] : by_length) {
    std::vector<int64_t> rows;
    std::vector<int64_t> group_slots;
    std::vector<int64_t> fresh;
    bool has_fresh = false;
    for (const size_t i : members) {
      for (int64_t row = 0; row < length; ++row) rows.push_back(segments[i].first_row + row);
      group_slots.push_back(slots[i]);
      fresh.push_back(segments[i].past == 0 ? 1 : 0);
      has_fresh = has_fresh || segments[i].past == 0;
    }
    groups.push_back({.segments = std::ssize(members),
                      .length = length,
                      .rows = at::tensor(rows, at::kLong).to(device),
                      .slots = at::tensor(group_slots, at::kLong).to(device),
                      .fresh = {}});
    if (has_fresh) groups.back().fresh = at::tensor(fresh, at::kLong).to(device, at::kBool);
  }
  return groups;
}

}  // namespace modeld
