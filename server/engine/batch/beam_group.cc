#include "server/engine/batch/beam_group.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/reason.h"
#include "server/engine/batch/logits.h"
#include "server/engine/batch/sampler.h"

namespace modeld {
namespace {

BeamSearch::Options OptionsOf(const Sampling& sampling, std::vector<int64_t> end_token_ids) {
  std::ranges::sort(end_token_ids);
  const auto repeated = std::ranges::unique(end_token_ids);
  end_token_ids.erase(repeated.begin(), repeated.end());
  return {.num_beams = sampling.num_beams,
          .length_penalty = sampling.length_penalty,
          .early_stopping = sampling.early_stopping,
          .max_tokens = sampling.max_tokens,
          .end_token_ids = std::move(end_token_ids)};
}

// In float32, as the reference has it.
std::vector<float> LogSoftmax(std::span<const float> logits) {
  const float highest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x - highest));
  const auto log_sum = static_cast<float>(std::log(sum));
  std::vector<float> out;
  out.reserve(logits.size());
  for (const float x : logits) out.push_back(x - highest - log_sum);
  return out;
}

}  // namespace

BeamGroup::BeamGroup(const GenerationRequest& request, std::vector<int64_t> end_token_ids)
    : request_(request),
      end_token_ids_(std::move(end_token_ids)),
      search_(OptionsOf(request.sampling, end_token_ids_)) {}

void BeamGroup::Put(const Sequence& member, std::span<const float> logits) {
  if (const absl::Status checked = CheckLogits(logits); !checked.ok()) {
    failure = checked;
    return;
  }
  rows_.resize(members.size());
  const auto place = std::ranges::find(members, &member) - members.begin();
  rows_.at(place).assign(logits.begin(), logits.end());
}

bool BeamGroup::is_complete() const {
  return rows_.size() == members.size() && std::ranges::none_of(rows_, &std::vector<float>::empty);
}

absl::StatusOr<std::vector<int>> BeamGroup::Advance() {
  std::vector<std::vector<float>> scores;
  for (size_t beam = 0; beam < rows_.size(); ++beam) scores.push_back(ScoresOf(beam));
  BeamSearch::LogprobsAt logprobs_at;
  if (request_.sampling.logprobs) {
    logprobs_at = [this](int beam, int64_t token_id) {
      return LogprobsOf(rows_[beam], token_id, *request_.sampling.logprobs);
    };
  }
  std::vector<int> parents = search_.Advance(scores, logprobs_at);
  rows_.clear();
  generated_ += request_.sampling.num_beams;
  if (!search_.done()) return parents;
  const int n = request_.sampling.n;
  if (const auto found = std::ssize(search_.Best(n)); found < n) {
    return InvalidField("sampling.n",
                        absl::StrCat("is ", n, "; the tokens that the request leaves have ", found,
                                     " continuations"));
  }
  return parents;
}

// The processors see log-probabilities, and what they make of them is not normalised again.
std::vector<float> BeamGroup::ScoresOf(size_t beam) const {
  std::vector<int64_t> tokens = request_.prompt;
  const std::vector<int64_t>& answer = running()[beam].tokens;
  tokens.insert(tokens.end(), answer.begin(), answer.end());
  Sampler sampler(request_.sampling,
                  {.prompt_tokens = std::ssize(request_.prompt), .end_token_ids = end_token_ids_});
  const std::vector<float> row = LogSoftmax(rows_[beam]);
  const std::span<const float> scores = sampler.Scores(tokens, row);
  return {scores.begin(), scores.end()};
}

std::vector<OutputPiece> BeamGroup::Answer(GenerationEnd end) const {
  std::vector<Hypothesis> best = search_.Best(request_.sampling.n);
  best.resize(request_.sampling.n);
  std::vector<OutputPiece> pieces;
  for (Hypothesis& hypothesis : best) {
    OutputPiece piece{.choice = static_cast<int>(pieces.size())};
    const TokenText text = request_.new_token_text();
    const auto shown = std::ssize(hypothesis.tokens) - static_cast<int64_t>(hypothesis.ended);
    for (int64_t i = 0; i < shown; ++i) piece.text += text(hypothesis.tokens[i]);
    AnswerParts parts(request_.parts);
    SetParts(parts.PutLast(piece.text + text(std::nullopt), 0), piece);
    piece.end = end;
    piece.end->score = hypothesis.score;
    if (hypothesis.ended) {
      piece.end->reason = parts.has_calls() ? FinishReason::kToolCalls : FinishReason::kStop;
      piece.end->stop_token_id = hypothesis.tokens.back();
    }
    // The tokens of all beams count once.
    piece.end->usage.generated_tokens = piece.choice == 0 ? generated_ : 0;
    piece.token_ids = std::move(hypothesis.tokens);
    piece.logprobs = std::move(hypothesis.logprobs);
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

}  // namespace modeld
