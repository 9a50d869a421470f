#include "server/download/download_queue.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace modeld {
namespace {

// A pace is measured over so long.
constexpr std::chrono::seconds kPaceWindow{1};
// Shorter segments say little about a connection.
constexpr int64_t kPaceBytesMin = 1 << 20;
// What a connection brings is known after so long.
constexpr std::chrono::milliseconds kTakeOverTime{200};
// A request that ends by itself within this time is not ended for another file.
constexpr double kPreemptSeconds = 1;

double Seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

// The last steps of a file keep a thread busy, and no connection.
bool UsesNetwork(const DownloadStep& step) {
  return step.kind != DownloadStep::Kind::kFinish && step.kind != DownloadStep::Kind::kClose;
}

int64_t LeftOf(const Segment& segment) {
  return segment.end.load() - segment.range.begin - segment.received.load();
}

// Ranges are given out in other ways where one request follows the other, or a limit slows all.
bool Divides(const QueuedFile& job) {
  const bool ready = !job.alone && !job.locating && job.open && !job.stop.stop_requested();
  if (!ready || job.transfer->sequential() || job.transfer->needs_place()) return false;
  return job.file.limit == nullptr || job.file.limit->bytes_per_second() == 0;
}

}  // namespace

void DownloadQueue::Add(std::shared_ptr<QueuedFile> job) {
  const Line line(-job->file.priority, job->file.model_name, job->small());
  waiting_[line].insert(std::move(job));
  ++waiting_count_;
}

std::optional<DownloadStep> DownloadQueue::Next(const Limits& limits, bool limited_rate, Time now) {
  std::optional<Choice> choice = Best(limits, now);
  // Under a bandwidth limit every connection is slow, and none for a reason of its own.
  if (!choice && !limited_rate) choice = Hedge(limits, now);
  if (!choice && !limited_rate) choice = TakeOver(limits, now);
  if (!choice) return std::nullopt;
  Book(*choice, now);
  return std::move(choice->step);
}

std::optional<DownloadQueue::Choice> DownloadQueue::Best(const Limits& limits, Time now) {
  std::optional<Choice> best;
  const auto consider = [&](std::optional<Choice> choice) {
    if (!choice || !Allowed(*choice, limits)) return;
    if (!best || RankOf(*choice) < RankOf(*best)) best = std::move(choice);
  };
  for (const auto& job : active_) consider(StepOf(job, limits, now));
  for (const auto& [line, jobs] : waiting_) consider(StepOf(*jobs.begin(), limits, now));
  return best;
}

// What `job` would have a connection do; nothing while it needs none.
std::optional<DownloadQueue::Choice> DownloadQueue::StepOf(const std::shared_ptr<QueuedFile>& job,
                                                           const Limits& limits, Time now) {
  using Kind = DownloadStep::Kind;
  const auto step = [&](Kind kind) { return Choice{.step = {.kind = kind, .job = job}}; };
  if (job->alone || job->locating) return std::nullopt;
  if (!job->failed.ok() || job->stop.stop_requested()) {
    return job->segments.empty() ? std::optional(step(Kind::kClose)) : std::nullopt;
  }
  if (!job->open) {
    const bool may = now >= job->not_before && job->segments.empty();
    return may ? std::optional(step(Kind::kOpen)) : std::nullopt;
  }
  if (job->transfer->whole()) {
    // Of a segment that was asked for twice the slower request is still at work.
    for (const auto& segment : job->segments) segment->stop.request_stop();
    return job->segments.empty() ? std::optional(step(Kind::kFinish)) : std::nullopt;
  }
  if (job->transfer->ready_at() > now) return std::nullopt;
  if (job->transfer->needs_place()) return step(Kind::kLocate);

  RangeSet open(job->transfer->Missing());
  Choice fetch = step(Kind::kFetch);
  if (job->transfer->sequential()) {
    if (!job->segments.empty()) return std::nullopt;
    fetch.range = {open.ranges().front().begin, job->file.file.size_bytes};
    return fetch;
  }
  for (const auto& segment : job->segments) {
    open.Remove({segment->range.begin, segment->end.load()});
  }
  if (open.ranges().empty()) return std::nullopt;
  const auto usual = usual_.find(job->transfer->origin());
  const int64_t bytes = SegmentBytes(usual == usual_.end() ? 0 : usual->second, open.bytes(),
                                     ConnectionsFor(*job, limits));
  const ByteRange first = open.ranges().front();
  fetch.range = {first.begin, std::min(first.end, first.begin + bytes)};
  return fetch;
}

int DownloadQueue::ConnectionsFor(const QueuedFile& job, const Limits& limits) const {
  if (job.small()) return 1;
  return std::max(static_cast<int>(job.segments.size()) + 1,
                  std::min(limits.large, limits.connections) / std::max(1, large_files()));
}

// The rest of the slowest segment, where it crawls, once more.
std::optional<DownloadQueue::Choice> DownloadQueue::Hedge(const Limits& limits, Time now) {
  std::optional<Choice> worst;
  int64_t worst_left = 0;
  for (const auto& job : active_) {
    if (!Divides(*job)) continue;
    for (const auto& segment : job->segments) {
      const auto usual = usual_.find(segment->origin);
      const int64_t left = LeftOf(*segment);
      const bool crawls =
          Crawls({.remaining_bytes = left,
                  .bytes_per_second = segment->bytes_per_second,
                  .usual_bytes_per_second = usual == usual_.end() ? 0 : usual->second,
                  .since_begin = now - segment->begun});
      const bool has_another = segment->again || segment->asked_again;
      if (has_another || segment->stop.stop_requested()) continue;
      if (left <= worst_left || !crawls) continue;
      // From the first byte that is not in the file: what the slow one holds may never get there.
      const RangeSet missing(job->transfer->Missing());
      const int64_t end = segment->end.load();
      const int64_t begin = missing.NextIn({segment->range.begin, end});
      if (begin == end) continue;
      worst_left = left;
      worst = Choice{.step = {.kind = DownloadStep::Kind::kFetch, .job = job},
                     .range = {begin, end},
                     .slow = segment};
    }
  }
  // One connection more than the others, since the slow one brings nothing.
  Limits more = limits;
  ++more.large;
  return worst && Allowed(*worst, more) ? worst : std::nullopt;
}

// The last part of the segment that would be there last.
std::optional<DownloadQueue::Choice> DownloadQueue::TakeOver(const Limits& limits, Time now) {
  std::optional<Choice> last;
  double last_seconds = 0;
  for (const auto& job : active_) {
    if (!Divides(*job) || job->transfer->ready_at() > now) continue;
    for (const auto& segment : job->segments) {
      const double age = Seconds(now - segment->begun);
      const bool has_another = segment->again || segment->asked_again;
      if (has_another || segment->stop.stop_requested() || age < Seconds(kTakeOverTime)) continue;
      const int64_t left = LeftOf(*segment);
      const double rate = static_cast<double>(segment->received.load()) / age;
      const double seconds = static_cast<double>(left) / std::max(1.0, rate);
      const int64_t bytes = TakenOverBytes(left, rate);
      if (bytes == 0 || seconds <= last_seconds) continue;
      const int64_t end = segment->end.load();
      last_seconds = seconds;
      last = Choice{.step = {.kind = DownloadStep::Kind::kFetch, .job = job},
                    .range = {end - bytes, end},
                    .from = segment};
    }
  }
  return last && Allowed(*last, limits) ? last : std::nullopt;
}

DownloadQueue::Rank DownloadQueue::RankOf(const Choice& choice) const {
  const QueuedFile& job = *choice.step.job;
  const auto of_model = by_model_.find(job.file.model_name);
  return {UsesNetwork(choice.step) ? 1 : 0, -job.file.priority,
          of_model == by_model_.end() ? 0 : of_model->second, static_cast<int>(job.segments.size()),
          job.age};
}

bool DownloadQueue::Allowed(const Choice& choice, const Limits& limits) const {
  using Kind = DownloadStep::Kind;
  const QueuedFile& job = *choice.step.job;
  if (!UsesNetwork(choice.step)) return true;
  if (busy_ >= limits.connections) return false;
  if (!job.small() && busy_large_ >= limits.large) return false;
  if (choice.step.kind != Kind::kFetch || limits.per_host <= 0) return true;
  const auto at = by_host_.find(job.transfer->origin());
  return at == by_host_.end() || at->second < limits.per_host;
}

void DownloadQueue::Book(Choice& choice, Time now) {
  using Kind = DownloadStep::Kind;
  DownloadStep& step = choice.step;
  QueuedFile& job = *step.job;
  const Line line(-job.file.priority, job.file.model_name, job.small());
  if (const auto at = waiting_.find(line); at != waiting_.end() && at->second.erase(step.job) > 0) {
    if (at->second.empty()) waiting_.erase(at);
    --waiting_count_;
    active_.push_back(step.job);
  }
  job.alone = step.kind == Kind::kOpen || step.kind == Kind::kFinish || step.kind == Kind::kClose;
  job.locating = step.kind == Kind::kLocate;
  if (!UsesNetwork(step)) return;
  ++busy_;
  if (!job.small()) ++busy_large_;
  ++by_model_[job.file.model_name];
  if (step.kind != Kind::kFetch) return;
  step.segment = std::make_shared<Segment>(choice.range, choice.slow != nullptr, now);
  step.segment->origin = job.transfer->origin();
  ++by_host_[step.segment->origin];
  job.segments.push_back(step.segment);
  if (choice.slow) choice.slow->asked_again = true;
  if (choice.from) choice.from->end = choice.range.begin;
}

void DownloadQueue::End(const DownloadStep& step, bool settled, Time now) {
  QueuedFile& job = *step.job;
  job.alone = job.locating = false;
  if (UsesNetwork(step)) {
    --busy_;
    if (!job.small()) --busy_large_;
    if (--by_model_[job.file.model_name] == 0) by_model_.erase(job.file.model_name);
  }
  if (step.segment) EndSegment(job, *step.segment, now);
  if (settled) std::erase(active_, step.job);
}

void DownloadQueue::EndSegment(QueuedFile& job, const Segment& ended, Time now) {
  if (--by_host_[ended.origin] == 0) by_host_.erase(ended.origin);
  std::erase_if(job.segments, [&](const auto& segment) { return segment.get() == &ended; });
  const int64_t received = ended.received.load();
  if (received >= kPaceBytesMin && !ended.stop.stop_requested()) {
    const double rate = static_cast<double>(received) / std::max(1e-3, Seconds(now - ended.begun));
    const auto [usual, first] = usual_.try_emplace(ended.origin, rate);
    if (!first) usual->second = (usual->second + rate) / 2;
  }
  if (!ended.again && !ended.asked_again) return;
  // First one home wins; when that was neither, the slow one may be asked for again.
  const RangeSet missing(job.transfer->Missing());
  for (const auto& other : job.segments) {
    const ByteRange its{other->range.begin, other->end.load()};
    if (its.begin >= ended.end.load() || ended.range.begin >= its.end) continue;
    if (missing.NextIn(its) == its.end) other->stop.request_stop();
    other->asked_again = false;
  }
}

std::vector<DownloadStep> DownloadQueue::TakeStopped(Time now) {
  Jobs stopped;
  for (const auto& [line, jobs] : waiting_) {
    for (const auto& job : jobs) {
      if (job->stop.stop_requested()) stopped.push_back(job);
    }
  }
  for (const auto& job : active_) {
    const bool idle = !job->alone && !job->locating && job->segments.empty();
    if (idle && job->stop.stop_requested()) stopped.push_back(job);
  }
  std::vector<DownloadStep> steps;
  for (auto& job : stopped) {
    Choice choice{.step = {.kind = DownloadStep::Kind::kClose, .job = std::move(job)}};
    Book(choice, now);
    steps.push_back(std::move(choice.step));
  }
  return steps;
}

void DownloadQueue::Sample(Time now) {
  for (const auto& job : active_) {
    for (const auto& segment : job->segments) {
      if (now - segment->sampled_at < kPaceWindow) continue;
      const int64_t received = segment->received.load();
      segment->bytes_per_second =
          static_cast<double>(received - segment->sampled) / Seconds(now - segment->sampled_at);
      segment->sampled = received;
      segment->sampled_at = now;
    }
  }
}

void DownloadQueue::Preempt(const Limits& limits, Time now) {
  if (Best(limits, now)) return;  // somebody will take it
  const std::optional<Choice> starved = Best(
      {.connections = std::numeric_limits<int>::max(), .large = std::numeric_limits<int>::max()},
      now);
  if (!starved) return;
  std::shared_ptr<Segment> victim;
  int32_t victim_priority = starved->step.job->file.priority;
  for (const auto& job : active_) {
    for (const auto& segment : job->segments) {
      if (segment->stop.stop_requested()) return;  // one is on its way out
      const double left = static_cast<double>(LeftOf(*segment));
      const bool long_way = segment->bytes_per_second * kPreemptSeconds < left;
      if (job->file.priority >= victim_priority || !long_way) continue;
      victim = segment;
      victim_priority = job->file.priority;
    }
  }
  if (victim) victim->stop.request_stop();
}

std::vector<std::shared_ptr<QueuedFile>> DownloadQueue::All() const {
  Jobs all = active_;
  for (const auto& [line, jobs] : waiting_) all.insert(all.end(), jobs.begin(), jobs.end());
  return all;
}

int DownloadQueue::large_files() const {
  int files = 0;
  for (const auto& job : active_) files += job->small() ? 0 : 1;
  for (const auto& [line, jobs] : waiting_) {
    if (!std::get<bool>(line)) files += static_cast<int>(jobs.size());
  }
  return files;
}

}  // namespace modeld
