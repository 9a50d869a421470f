#include "server/engine/batch/sequence.h"

#include <algorithm>
#include <string>
#include <utility>

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

Sequence::Sequence(int64_t id, std::shared_ptr<Generation> generation, uint64_t seed, Time now)
    : id_(id),
      generation_(std::move(generation)),
      submitted_(now),
      end_token_ids_(EndTokenIds(generation_->request())),
      sampler_(generation_->request().sampling,
               {.seed = generation_->request().sampling.seed.value_or(seed),
                .prompt_tokens = std::ssize(generation_->request().prompt),
                .end_token_ids = end_token_ids_}),
      stop_strings_(generation_->request().sampling.stop),
      tokens_(generation_->request().prompt) {}

void Sequence::Start(Time now) {
  if (!started_) started_ = now;
}

std::optional<GenerationEnd> Sequence::Advance(std::span<const float> logits, Time now) {
  absl::StatusOr<SampledToken> sampled = sampler_.Next(tokens_, logits);
  if (!sampled.ok()) return Stop(sampled.status(), FinishReason::kStop, now);
  const int64_t token_id = sampled->token_id;
  tokens_.push_back(token_id);
  ++generated_;
  if (first_token_) {
    timing_.inter_token_seconds = Seconds(now - last_token_);
  } else {
    first_token_ = now;
    timing_.time_to_first_token_seconds = Seconds(now - submitted_);
  }
  last_token_ = now;

  OutputPiece piece;
  piece.token_ids = {token_id};
  if (sampled->logprobs) piece.logprobs = {*std::move(sampled->logprobs)};
  std::optional<FinishReason> finish;
  if (EndsGeneration(token_id)) {
    // The token is the end, not a part of the text, even when the vocabulary does not call it
    // special.
    finish = FinishReason::kStop;
    stop_token_id_ = token_id;
  } else {
    const Sampling& sampling = generation_->request().sampling;
    piece.text = generation_->request().token_text(token_id);
    if (generated_ > sampling.min_tokens) piece.text = stop_strings_.Put(piece.text);
    if (generated_ >= sampling.max_tokens) finish = FinishReason::kLength;
  }
  if (finish) piece.text += RestOfText();
  if (stop_strings_.match()) {
    finish = FinishReason::kStop;
    stop_token_id_.reset();  // the string came first
  }
  generation_->Append(std::move(piece));
  if (!finish) return std::nullopt;
  return End(*finish, now);
}

GenerationEnd Sequence::Stop(const absl::Status& status, FinishReason reason, Time now) {
  if (std::string rest = RestOfText(); !rest.empty())
    generation_->Append({.text = std::move(rest)});
  GenerationEnd end = End(reason, now);
  end.status = status;
  return end;
}

GenerationEnd Sequence::End(FinishReason reason, Time now) const {
  GenerationEnd end{
      .reason = reason, .stop_match = stop_strings_.match(), .stop_token_id = stop_token_id_};
  end.usage.prompt_tokens = std::ssize(generation_->request().prompt);
  end.usage.generated_tokens = generated_;
  end.usage.queue_seconds = Seconds(started_.value_or(now) - submitted_);
  if (first_token_) end.usage.time_to_first_token_seconds = Seconds(*first_token_ - submitted_);
  end.usage.total_seconds = Seconds(now - submitted_);
  return end;
}

// The last bytes may complete a stop string too.
std::string Sequence::RestOfText() {
  std::string rest = stop_strings_.Put(generation_->request().token_text(std::nullopt));
  return rest + stop_strings_.Finish();
}

bool Sequence::EndsGeneration(int64_t token_id) const {
  return std::ranges::find(end_token_ids_, token_id) != end_token_ids_.end();
}

}  // namespace modeld
