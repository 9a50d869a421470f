#include "server/engine/batch/sequence.h"

#include <algorithm>
#include <string>
#include <utility>

#include "server/base/status.h"
#include "server/engine/batch/logits.h"

namespace modeld {
namespace {

double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

std::vector<int64_t> EndTokenIds(const GenerationRequest& request) {
  std::vector<int64_t> ids = request.sampling.stop_token_ids;
  if (!request.sampling.ignore_eos) {
    ids.insert(ids.end(), request.eos_token_ids.begin(), request.eos_token_ids.end());
  }
  return ids;
}

}  // namespace

Sequence::Sequence(int64_t id, std::shared_ptr<Generation> generation, int choice, uint64_t seed,
                   Time now)
    : id_(id),
      choice_(choice),
      generation_(std::move(generation)),
      submitted_(now),
      end_token_ids_(EndTokenIds(generation_->request())),
      sampler_(generation_->request().sampling,
               {.seed = generation_->request().sampling.seed.value_or(seed),
                .choice = static_cast<uint32_t>(choice),
                .prompt_tokens = std::ssize(generation_->request().prompt),
                .end_token_ids = end_token_ids_}),
      stop_strings_(generation_->request().sampling.stop),
      token_text_(generation_->request().new_token_text()),
      parts_(generation_->request().parts),
      tokens_(generation_->request().prompt),
      prompt_scored_end_(choice == 0 && generation_->request().sampling.prompt_logprobs
                             ? std::ssize(tokens_)
                             : 0) {
  const GenerationRequest& request = generation_->request();
  if (request.structure) {
    grammar_ = std::make_unique<AnswerGrammar>(*request.structure, end_token_ids_);
  }
  if (choice_ > 0 || request.sampling.num_beams == 1) return;
  beams = std::make_shared<BeamGroup>(request, end_token_ids_);
  beams->members = {this};
}

void Sequence::Start(Time now) {
  if (started_) return;
  started_ = now;
  if (choice_ == 0) timing_.queue_seconds = Seconds(now - submitted_);
}

absl::Status Sequence::ScorePrompt(int64_t first, std::span<const float> logits,
                                   int64_t vocab_size) {
  OutputPiece piece{.choice = choice_};
  const int64_t rows = std::ssize(logits) / vocab_size;
  while (scores_prompt() && prompt_scored_ < first + rows) {
    const auto row = logits.subspan((prompt_scored_ - first) * vocab_size, vocab_size);
    RETURN_IF_ERROR(CheckLogits(row));
    ++prompt_scored_;
    piece.prompt_logprobs.push_back(
        LogprobsOf(row, tokens_[prompt_scored_], *generation_->request().sampling.prompt_logprobs));
  }
  if (!piece.prompt_logprobs.empty()) generation_->Append(std::move(piece));
  return absl::OkStatus();
}

std::optional<GenerationEnd> Sequence::Advance(std::span<const float> logits, Time now) {
  const Sampling& sampling = generation_->request().sampling;
  if (sampling.max_tokens == 0) return End(FinishReason::kLength, now);
  absl::StatusOr<std::optional<TokenRules>> rules = TokenRules();
  if (grammar_) rules = grammar_->Next();
  if (!rules.ok()) return Stop(rules.status(), FinishReason::kStop, now);
  if (!*rules) return Stop(absl::OkStatus(), FinishReason::kStop, now);
  const std::optional<int64_t> forced = parts_.TakeForced(**rules);
  absl::StatusOr<SampledToken> sampled =
      forced ? sampler_.Take(*forced, logits) : sampler_.Next(tokens_, logits, **rules);
  if (!sampled.ok()) return Stop(sampled.status(), FinishReason::kStop, now);
  const int64_t token_id = sampled->token_id;
  tokens_.push_back(token_id);
  NoteToken(now);
  OutputPiece piece{.choice = choice_, .token_ids = {token_id}};
  if (sampled->logprobs) logprob_sum_ += sampled->logprobs->chosen.logprob;
  if (sampling.logprobs) piece.logprobs = {*std::move(sampled->logprobs)};
  std::optional<FinishReason> finish;
  if (EndsGeneration(token_id) && (*rules)->may_end) {
    // The token is the end, not a part of the text, even when the vocabulary does not call it
    // special.
    finish = FinishReason::kStop;
    stop_token_id_ = token_id;
  } else {
    piece.text = token_text_(token_id);
    if (generated_ > sampling.min_tokens) piece.text = stop_strings_.Put(piece.text);
    if (generated_ >= sampling.max_tokens) finish = FinishReason::kLength;
    if (grammar_) {
      const absl::StatusOr<bool> whole = grammar_->Accept(tokens().last(generated_));
      if (!whole.ok()) return Stop(whole.status(), FinishReason::kStop, now);
      if (*whole) finish = FinishReason::kStop;
    }
  }
  if (finish) {
    SetParts(parts_.PutLast(piece.text + RestOfText(), 1), piece);
  } else {
    SetParts(parts_.Put(std::move(piece.text), 1), piece);
    if (parts_.ends_here()) finish = FinishReason::kStop;
  }
  if (stop_strings_.match()) {
    finish = FinishReason::kStop;
    stop_token_id_.reset();  // the string came first
  }
  generation_->Append(std::move(piece));
  if (!finish) return std::nullopt;
  if (*finish == FinishReason::kStop && !stop_strings_.match() && parts_.has_calls()) {
    finish = FinishReason::kToolCalls;
  }
  return End(*finish, now);
}

void Sequence::Replace(std::span<const int64_t> answer) {
  tokens_.resize(generation_->request().prompt.size());
  tokens_.insert(tokens_.end(), answer.begin(), answer.end());
}

void Sequence::NoteToken(Time now) {
  ++generated_;
  if (first_token_) {
    timing_.inter_token_seconds = Seconds(now - last_token_);
  } else {
    first_token_ = now;
    if (choice_ == 0) timing_.time_to_first_token_seconds = Seconds(now - submitted_);
  }
  last_token_ = now;
}

GenerationEnd Sequence::Stop(const absl::Status& status, FinishReason reason, Time now) {
  if (AnswerPiece rest = parts_.PutLast(RestOfText(), 0); !rest.empty()) {
    OutputPiece piece{.choice = choice_};
    SetParts(std::move(rest), piece);
    generation_->Append(std::move(piece));
  }
  GenerationEnd end = End(reason, now);
  end.status = status;
  return end;
}

GenerationEnd Sequence::End(FinishReason reason, Time now) const {
  GenerationEnd end{
      .reason = reason, .stop_match = stop_strings_.match(), .stop_token_id = stop_token_id_};
  if (generation_->request().sampling.ranks_choices()) {
    end.score = logprob_sum_ / static_cast<double>(std::max<int64_t>(generated_, 1));
  }
  end.usage.prompt_tokens = std::ssize(generation_->request().prompt);
  end.usage.generated_tokens = generated_;
  end.usage.cached_tokens = cached_tokens;
  end.usage.reasoning_tokens = parts_.reasoning_tokens();
  end.usage.queue_seconds = Seconds(started_.value_or(now) - submitted_);
  if (first_token_) end.usage.time_to_first_token_seconds = Seconds(*first_token_ - submitted_);
  end.usage.total_seconds = Seconds(now - submitted_);
  return end;
}

// The last bytes may complete a stop string too.
std::string Sequence::RestOfText() {
  std::string rest = stop_strings_.Put(token_text_(std::nullopt));
  return rest + stop_strings_.Finish();
}

bool Sequence::EndsGeneration(int64_t token_id) const {
  return std::ranges::find(end_token_ids_, token_id) != end_token_ids_.end();
}

}  // namespace modeld
