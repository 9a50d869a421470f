// Which bytes of a file: sorted, disjoint ranges.
#pragma once

#include <cstdint>
#include <vector>

#include "server/cache/part_journal.h"

namespace modeld {

// One thread at a time.
class RangeSet {
 public:
  RangeSet() = default;
  // Sorted, disjoint, none empty.
  explicit RangeSet(std::vector<ByteRange> ranges) : ranges_(std::move(ranges)) {}

  void Add(ByteRange range);
  void Remove(ByteRange range);
  // The parts of `within` that are not in the set.
  std::vector<ByteRange> Missing(ByteRange within) const;
  // The first byte of `within` that is in the set; its end when there is none.
  int64_t NextIn(ByteRange within) const;
  // How far the bytes from `begin` on go without a hole; `begin` when it is not in the set.
  int64_t RunEnd(int64_t begin) const;

  const std::vector<ByteRange>& ranges() const { return ranges_; }
  int64_t bytes() const;

 private:
  std::vector<ByteRange> ranges_;
};

}  // namespace modeld
