#include "server/engine/generation_stream.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "server/wire/status_wire.h"

namespace modeld {
namespace {

void Fill(const TokenLogprob& in, const Tokenizer& tokenizer, modeld::v1::TokenLogprob& out) {
  out.set_token_id(in.token_id);
  out.set_token(tokenizer.TokenSpelling(in.token_id));
  out.set_logprob(in.logprob);
}

void Fill(const PositionLogprobs& in, const Tokenizer& tokenizer, modeld::v1::TokenLogprobs& out) {
  Fill(in.chosen, tokenizer, *out.mutable_chosen());
  for (const TokenLogprob& top : in.top) Fill(top, tokenizer, *out.add_top());
}

void Fill(ToolCallPiece in, modeld::v1::ToolCall& out) {
  out.set_id(std::move(in.id));
  out.set_name(std::move(in.name));
  out.set_arguments_json(std::move(in.arguments));
  out.set_index(in.index);
  out.set_withdrawn(in.withdrawn);
}

modeld::v1::Usage ToProto(const GenerationUsage& usage) {
  modeld::v1::Usage out;
  out.set_prompt_tokens(usage.prompt_tokens);
  out.set_generated_tokens(usage.generated_tokens);
  out.set_cached_tokens(usage.cached_tokens);
  out.set_reasoning_tokens(usage.reasoning_tokens);
  out.set_queue_seconds(usage.queue_seconds);
  out.set_time_to_first_token_seconds(usage.time_to_first_token_seconds);
  out.set_total_seconds(usage.total_seconds);
  return out;
}

}  // namespace

void GenerationStream::Start(absl::StatusOr<PreparedGeneration> prepared) {
  if (!prepared.ok()) {
    Finish(ToGrpcStatus(prepared.status()));
    return;
  }
  model_ = prepared->model;
  auto generation =
      std::make_shared<Generation>(std::move(prepared->request), [this] { WriteNext(); });
  source_ = generation.get();
  echoes_ = source_->request().echo_text.has_value();
  bool cancelled = false;
  {
    MutexLock lock(mutex_);
    generation_ = generation;
    cancelled = cancelled_;
  }
  if (cancelled) generation->Cancel();
  // After Submit() the stream may be gone at any time; the scheduler keeps the generation alive.
  const std::shared_ptr<ServingModel> model = model_;
  const absl::Status submitted = model->scheduler->Submit(std::move(generation));
  if (!submitted.ok()) Finish(ToGrpcStatus(submitted));
}

// Runs on the step thread or on one of gRPC's. Nothing of the stream is touched after StartWrite()
// and Finish(): the next callback may be running already.
void GenerationStream::WriteNext() {
  while (!ended_) {
    std::optional<OutputPiece> piece = source_->Take();
    if (!piece) return;
    if (piece->end && end_status_.ok()) end_status_ = piece->end->status;
    ended_ = piece->last;
    const bool is_empty_end = piece->end && !piece->end->status.ok() && piece->text.empty() &&
                              piece->reasoning.empty() && piece->tool_calls.empty() &&
                              piece->token_ids.empty();
    if (broken_ || is_empty_end) continue;
    FillMessage(*std::move(piece));
    StartWrite(&message_);
    return;
  }
  Finish(ToGrpcStatus(end_status_));
}

void GenerationStream::OnWriteDone(bool ok) {
  if (!ok) {
    broken_ = true;
    source_->Cancel();
  }
  WriteNext();
}

void GenerationStream::OnCancel() {
  std::shared_ptr<Generation> generation;
  {
    MutexLock lock(mutex_);
    cancelled_ = true;
    generation = generation_;
  }
  if (generation) generation->Cancel();
}

void GenerationStream::FillMessage(OutputPiece piece) {
  message_.Clear();
  message_.set_text(std::move(piece.text));
  message_.set_reasoning_text(std::move(piece.reasoning));
  for (ToolCallPiece& call : piece.tool_calls) Fill(std::move(call), *message_.add_tool_calls());
  message_.mutable_token_ids()->Assign(piece.token_ids.begin(), piece.token_ids.end());
  for (const PositionLogprobs& position : piece.logprobs) {
    Fill(position, *model_->tokenizer, *message_.add_logprobs());
  }
  for (const PositionLogprobs& position : piece.prompt_logprobs) {
    Fill(position, *model_->tokenizer, *message_.add_prompt_logprobs());
  }
  message_.set_index(piece.choice);
  if (std::exchange(echoes_, false)) {
    const std::vector<int64_t>& prompt = source_->request().prompt;
    message_.mutable_prompt_token_ids()->Assign(prompt.begin(), prompt.end());
  }
  if (!piece.end || !piece.end->status.ok()) return;
  message_.set_finish_reason(static_cast<modeld::v1::FinishReason>(piece.end->reason));
  if (piece.last) *message_.mutable_usage() = ToProto(piece.end->usage);
  if (piece.end->score) message_.set_score(*piece.end->score);
  if (piece.end->stop_token_id) message_.set_stop_token_id(*piece.end->stop_token_id);
  if (piece.end->stop_match) message_.set_stop_match(*piece.end->stop_match);
}

}  // namespace modeld
