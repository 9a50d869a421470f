#include "server/engine/embedding_call.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/wire/status_wire.h"

namespace modeld {
namespace {

// Of one answer, which is at most 64 MiB with everything else in it.
constexpr int64_t kVectorBytesMax = 48 << 20;
// Below this a vector has no direction.
constexpr double kLengthMin = 1e-12;

// How many special tokens the tokenizer puts behind a text.
absl::StatusOr<int64_t> EndingTokens(const Tokenizer& tokenizer) {
  constexpr std::string_view kText = "a";
  ASSIGN_OR_RETURN(const std::vector<int64_t> plain, tokenizer.Encode(kText, false));
  ASSIGN_OR_RETURN(const std::vector<int64_t> whole, tokenizer.Encode(kText, true));
  const auto at = std::ranges::search(whole, plain);
  return whole.end() - at.end();
}

void Normalize(std::vector<float>& vector) {
  double square = 0;
  for (const float x : vector) square += static_cast<double>(x) * x;
  const double length = std::max(std::sqrt(square), kLengthMin);
  for (float& x : vector) x = static_cast<float>(x / length);
}

}  // namespace

absl::StatusOr<Prompt> MeasurePrompt(const Tokenizer& tokenizer, const std::string& text) {
  if (text.empty()) return Prompt();
  ASSIGN_OR_RETURN(const std::vector<int64_t> ids, tokenizer.Encode(text, true));
  const bool ends_specially = !ids.empty() && tokenizer.IsSpecial(ids.back());
  return Prompt{.text = text, .tokens = std::ssize(ids) - (ends_specially ? 1 : 0)};
}

absl::StatusOr<PreparedText> PrepareText(const Tokenizer& tokenizer, const Prompt& prompt,
                                         const std::string& text, int64_t max_tokens) {
  PreparedText prepared;
  std::vector<int64_t>& ids = prepared.tokens.token_ids;
  ASSIGN_OR_RETURN(ids, tokenizer.Encode(prompt.text + text, true));
  prepared.tokens.prompt_tokens = prompt.tokens;
  prepared.truncated = std::ssize(ids) > max_tokens;
  if (prepared.truncated) {
    ASSIGN_OR_RETURN(int64_t ending, EndingTokens(tokenizer));
    ending = std::min(ending, max_tokens);
    ids.erase(ids.begin() + (max_tokens - ending), ids.end() - ending);
  }
  return prepared;
}

void EmbeddingCall::Start(absl::StatusOr<std::shared_ptr<ServingModel>> model) {
  absl::Status status = model.status();
  if (status.ok()) {
    model_ = *std::move(model);
    status = Submit();
  }
  if (!status.ok()) Finish(ToGrpcStatus(status));
}

absl::Status EmbeddingCall::CheckSize() const {
  const TextEmbedder& embedder = *model_->loaded.embedder;
  if (request_.inputs().empty()) return InvalidField("inputs", "is empty");
  const int64_t vector_bytes = embedder.dimensions() * static_cast<int64_t>(sizeof(float));
  if (request_.inputs_size() * vector_bytes > kVectorBytesMax) {
    return InvalidField("inputs", absl::StrFormat("has %d texts; at most %d have vectors of %d "
                                                  "bytes each that fit into one answer",
                                                  request_.inputs_size(),
                                                  kVectorBytesMax / vector_bytes, vector_bytes));
  }
  if (request_.has_dimensions() &&
      (request_.dimensions() < 1 || request_.dimensions() > embedder.dimensions())) {
    return InvalidField(
        "dimensions",
        absl::StrFormat("is %d; a vector has %d", request_.dimensions(), embedder.dimensions()));
  }
  const int64_t bytes_max = model_->limits.prompt_bytes_max;
  for (int i = 0; i < request_.inputs_size(); ++i) {
    const int64_t bytes = std::ssize(request_.inputs(i));
    if (bytes <= bytes_max) continue;
    return InvalidField(absl::StrFormat("inputs[%d]", i),
                        absl::StrFormat("has %d bytes, at most %d are allowed "
                                        "(limits.prompt_bytes_max)",
                                        bytes, bytes_max));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> EmbeddingCall::PromptText() const {
  const SentenceConfig& config = model_->loaded.embedder->config();
  const std::string& name =
      request_.prompt_name().empty() ? config.default_prompt : request_.prompt_name();
  if (name.empty()) return std::string();
  const auto prompt = config.prompts.find(name);
  if (prompt != config.prompts.end()) return prompt->second;
  std::string known;
  for (const auto& [key, text] : config.prompts) absl::StrAppend(&known, " \"", key, "\"");
  return InvalidField("prompt_name", absl::StrCat("\"", name, "\" is none of the repository's:",
                                                  known.empty() ? " it has none" : known));
}

absl::Status EmbeddingCall::Submit() {
  RETURN_IF_ERROR(model_->CheckEmbeds());
  RETURN_IF_ERROR(CheckSize());
  ASSIGN_OR_RETURN(const std::string prompt_text, PromptText());
  ASSIGN_OR_RETURN(const Prompt prompt, MeasurePrompt(*model_->tokenizer, prompt_text));
  const int64_t max_tokens = model_->loaded.max_context;
  std::vector<TokenizedText> texts;
  for (int i = 0; i < request_.inputs_size(); ++i) {
    ASSIGN_OR_RETURN(PreparedText text,
                     PrepareText(*model_->tokenizer, prompt, request_.inputs(i), max_tokens));
    const int64_t count = std::ssize(text.tokens.token_ids);
    if (text.truncated && request_.has_truncate() && !request_.truncate()) {
      return Error(Reason::kContextLengthExceeded,
                   absl::StrFormat("inputs[%d] has more than the %d tokens that the model takes", i,
                                   max_tokens),
                   {{"max_context", std::to_string(max_tokens)}});
    }
    if (count == 0) return InvalidField(absl::StrFormat("inputs[%d]", i), "has no tokens");
    for (const int64_t id : text.tokens.token_ids) {
      if (id < model_->loaded.embedder->vocab_size()) continue;
      return Error(Reason::kInvalidRepository,
                   absl::StrFormat("the tokenizer has a token %d, the model has %d", id,
                                   model_->loaded.embedder->vocab_size()));
    }
    modeld::v1::Embedding& embedding = *response_.add_embeddings();
    embedding.set_token_count(count);
    embedding.set_truncated(text.truncated);
    texts.push_back(std::move(text.tokens));
  }
  auto job = std::make_shared<EmbeddingJob>(
      std::move(texts), deadline_,
      [this](absl::StatusOr<EmbeddingResult> result) { Answer(std::move(result)); });
  {
    MutexLock lock(mutex_);
    if (cancelled_) return absl::CancelledError("the request was cancelled");
    job_ = job;
  }
  // After Submit() the call may be gone at any time.
  const std::shared_ptr<ServingModel> model = model_;
  return model->embeddings->Submit(std::move(job));
}

void EmbeddingCall::Answer(absl::StatusOr<EmbeddingResult> result) {
  if (result.ok()) {
    const bool normalize = request_.has_normalize() ? request_.normalize()
                                                    : model_->loaded.embedder->config().normalize;
    for (size_t i = 0; i < result->vectors.size(); ++i) {
      std::vector<float>& vector = result->vectors[i];
      if (request_.has_dimensions()) vector.resize(static_cast<size_t>(request_.dimensions()));
      if (normalize) Normalize(vector);
      response_.mutable_embeddings(static_cast<int>(i))
          ->mutable_values()
          ->Assign(vector.begin(), vector.end());
    }
    response_.mutable_usage()->set_prompt_tokens(result->usage.prompt_tokens);
    response_.mutable_usage()->set_queue_seconds(result->usage.queue_seconds);
    response_.mutable_usage()->set_total_seconds(result->usage.total_seconds);
  }
  Finish(ToGrpcStatus(result.status()));
}

void EmbeddingCall::OnCancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  if (job_) job_->Cancel();
}

}  // namespace modeld
