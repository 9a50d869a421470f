#include "server/engine/batch/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace modeld {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

}  // namespace

BeamSearch::BeamSearch(Options options) : options_(std::move(options)), running_(1) {}

std::vector<int> BeamSearch::Advance(std::span<const std::vector<float>> scores,
                                     const LogprobsAt& logprobs_at) {
  const std::vector<Candidate> candidates = BestCandidates(scores);
  const int64_t length = std::ssize(running_.front().tokens) + 1;
  const auto hypothesis_of = [&](const Candidate& candidate) {
    Hypothesis next = running_[candidate.beam];
    next.tokens.push_back(candidate.token_id);
    if (logprobs_at) next.logprobs.push_back(logprobs_at(candidate.beam, candidate.token_id));
    next.score = candidate.score;
    next.ended = IsEnd(candidate.token_id);
    return next;
  };
  std::vector<Hypothesis> running;
  std::vector<int> parents;
  for (int i = 0; i < std::ssize(candidates); ++i) {
    const Candidate& candidate = candidates[i];
    if (!IsEnd(candidate.token_id) && length < options_.max_tokens) {
      if (std::ssize(running) == options_.num_beams) continue;
      running.push_back(hypothesis_of(candidate));
      parents.push_back(candidate.beam);
    } else if (i < options_.num_beams) {
      // Those behind the num_beams best are there to replace ended ones only.
      Hypothesis finished = hypothesis_of(candidate);
      finished.score = Penalised(finished.score, length);
      Finish(std::move(finished));
    }
  }
  running_ = std::move(running);
  const bool is_full = std::ssize(finished_) == options_.num_beams;
  done_ = running_.empty() || !CanImprove(length) ||
          (is_full && options_.early_stopping == EarlyStopping::kYes);
  return parents;
}

// As many as leave num_beams that do not end, whatever ends. In order of score, then of beam and
// token.
std::vector<BeamSearch::Candidate> BeamSearch::BestCandidates(
    std::span<const std::vector<float>> scores) const {
  const auto better = [](const Candidate& a, const Candidate& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.beam != b.beam ? a.beam < b.beam : a.token_id < b.token_id;
  };
  const int64_t wanted =
      options_.num_beams * std::max<int64_t>(2, 1 + std::ssize(options_.end_token_ids));
  std::vector<Candidate> best;  // a heap whose front is the worst
  for (int beam = 0; beam < std::ssize(scores); ++beam) {
    for (int64_t id = 0; id < std::ssize(scores[beam]); ++id) {
      const Candidate candidate = {running_[beam].score + scores[beam][id], beam, id};
      if (candidate.score == kNever) continue;
      if (std::ssize(best) == wanted) {
        if (!better(candidate, best.front())) continue;
        std::ranges::pop_heap(best, better);
        best.pop_back();
      }
      best.push_back(candidate);
      std::ranges::push_heap(best, better);
    }
  }
  std::ranges::sort(best, better);
  return best;
}

std::vector<Hypothesis> BeamSearch::Best(int n) const {
  std::vector<Hypothesis> best = finished_;
  for (const Hypothesis& hypothesis : running_) {
    if (hypothesis.tokens.empty()) continue;
    best.push_back(hypothesis);
    best.back().score = Penalised(hypothesis.score, std::ssize(hypothesis.tokens));
  }
  if (std::ssize(best) > n) best.resize(n);
  return best;
}

bool BeamSearch::IsEnd(int64_t token_id) const {
  return std::ranges::find(options_.end_token_ids, token_id) != options_.end_token_ids.end();
}

float BeamSearch::Penalised(float score, int64_t length) const {
  return score / static_cast<float>(std::pow(static_cast<double>(length), options_.length_penalty));
}

void BeamSearch::Finish(Hypothesis hypothesis) {
  const auto place = std::ranges::upper_bound(finished_, hypothesis.score, std::ranges::greater(),
                                              &Hypothesis::score);
  finished_.insert(place, std::move(hypothesis));
  if (std::ssize(finished_) > options_.num_beams) finished_.pop_back();
}

// With a positive penalty a longer one may be better in the end; only kNever waits for that.
bool BeamSearch::CanImprove(int64_t length) const {
  if (std::ssize(finished_) < options_.num_beams || running_.empty()) return true;
  const bool looks_ahead =
      options_.early_stopping == EarlyStopping::kNever && options_.length_penalty > 0;
  const float best = Penalised(running_.front().score, looks_ahead ? options_.max_tokens : length);
  return best > finished_.back().score;
}

}  // namespace modeld
