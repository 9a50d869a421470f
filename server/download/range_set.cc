#include "server/download/range_set.h"

#include <algorithm>

namespace modeld {

void RangeSet::Add(ByteRange range) {
  if (range.begin >= range.end) return;
  // Ranges that touch become one.
  auto first = std::ranges::lower_bound(ranges_, range.begin, {}, &ByteRange::end);
  auto last = first;
  for (; last != ranges_.end() && last->begin <= range.end; ++last) {
    range.begin = std::min(range.begin, last->begin);
    range.end = std::max(range.end, last->end);
  }
  ranges_.insert(ranges_.erase(first, last), range);
}

void RangeSet::Remove(ByteRange range) {
  if (range.begin >= range.end) return;
  std::vector<ByteRange> left;
  left.reserve(ranges_.size() + 1);
  for (const ByteRange& have : ranges_) {
    const ByteRange before{have.begin, std::min(have.end, range.begin)};
    const ByteRange after{std::max(have.begin, range.end), have.end};
    if (before.begin < before.end) left.push_back(before);
    if (after.begin < after.end) left.push_back(after);
  }
  ranges_ = std::move(left);
}

std::vector<ByteRange> RangeSet::Missing(ByteRange within) const {
  std::vector<ByteRange> out;
  int64_t at = within.begin;
  auto it = std::ranges::upper_bound(ranges_, within.begin, {}, &ByteRange::end);
  for (; it != ranges_.end() && it->begin < within.end; ++it) {
    if (at < it->begin) out.push_back({at, it->begin});
    at = std::max(at, it->end);
  }
  if (at < within.end) out.push_back({at, within.end});
  return out;
}

int64_t RangeSet::NextIn(ByteRange within) const {
  const auto it = std::ranges::upper_bound(ranges_, within.begin, {}, &ByteRange::end);
  return it == ranges_.end() ? within.end : std::clamp(it->begin, within.begin, within.end);
}

int64_t RangeSet::RunEnd(int64_t begin) const {
  const auto it = std::ranges::upper_bound(ranges_, begin, {}, &ByteRange::end);
  return it != ranges_.end() && it->begin <= begin ? it->end : begin;
}

int64_t RangeSet::bytes() const {
  int64_t sum = 0;
  for (const ByteRange& range : ranges_) sum += range.end - range.begin;
  return sum;
}

}  // namespace modeld
