// A CausalLm whose answers a test can compute itself, and a reader of generations.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/engine/batch/request.h"
#include "server/engine/models/model.h"

namespace modeld {

// The likeliest next token follows from all tokens before it, so that a state which lost or mixed
// up one shows. Memory is a pool of tokens; forks share what both have.
class TinyLm final : public CausalLm {
 public:
  static constexpr int64_t kVocab = 61;

  class State final : public SequenceState {
   public:
    explicit State(TinyLm& model) : model_(model) {}
    int64_t length() const override { return std::ssize(tokens); }
    bool Reserve(int64_t length) override {
      const int64_t more = std::max<int64_t>(length - reserved_, 0);
      if (model_.used_ + more > model_.kv_tokens) return false;
      model_.used_ += more;
      reserved_ += more;
      memory_.emplace_back(nullptr, [&model = model_, more](void*) { model.used_ -= more; });
      return true;
    }
    std::unique_ptr<SequenceState> Fork() const override {
      return model_.has_memory_for_forks ? std::make_unique<State>(*this) : nullptr;
    }

    std::vector<int64_t> tokens;

   private:
    TinyLm& model_;
    int64_t reserved_ = 0;
    std::vector<std::shared_ptr<void>> memory_;
  };

  static int64_t NextToken(const std::vector<int64_t>& tokens) {
    int64_t hash = 17;
    for (const int64_t token : tokens) hash = (hash * 31 + token + 1) % 1'000'003;
    return hash % kVocab;
  }

  // What a greedy generation of `n` tokens answers.
  static std::vector<int64_t> Answer(std::vector<int64_t> prompt, int64_t n) {
    std::vector<int64_t> answer;
    for (int64_t i = 0; i < n; ++i) {
      answer.push_back(NextToken(prompt));
      prompt.push_back(answer.back());
    }
    return answer;
  }

  at::Tensor Forward(const std::vector<Segment>& segments) override {
    if (on_forward) on_forward(segments);
    std::vector<at::Tensor> rows;
    for (const Segment& segment : segments) {
      auto& tokens = static_cast<State*>(segment.state)->tokens;
      for (size_t i = 0; i < segment.token_ids.size(); ++i) {
        tokens.push_back(segment.token_ids[i]);
        const bool wants_last = segment.wants_logits && i + 1 == segment.token_ids.size();
        if (wants_last || segment.wants_all_logits) rows.push_back(RowAfter(tokens));
      }
    }
    return rows.empty() ? at::zeros({0, vocab}, at::kFloat) : at::stack(rows);
  }

  // 2 for the next token, 0 for the others, unless the test has its own.
  at::Tensor RowAfter(const std::vector<int64_t>& tokens) const {
    if (row_after) return at::tensor(row_after(tokens));
    at::Tensor row = at::zeros({kVocab}, at::kFloat);
    row[NextToken(tokens)] = 2.0F;
    if (tokens.back() == nan_after) row[0] = NAN;
    return row;
  }

  std::unique_ptr<SequenceState> NewSequence() override { return std::make_unique<State>(*this); }
  int64_t vocab_size() const override { return vocab; }
  int64_t max_context() const override { return 10'000; }
  int64_t kv_tokens_total() const override { return kv_tokens; }
  int64_t kv_tokens_free() const override { return kv_tokens - used_; }

  // Set before the scheduler starts; called from the step thread.
  std::function<void(const std::vector<Segment>&)> on_forward;
  int64_t kv_tokens = 100'000;
  int64_t nan_after = -1;  // logits that follow this token are broken
  bool has_memory_for_forks = true;
  int64_t vocab = kVocab;
  std::function<std::vector<float>(const std::vector<int64_t>&)> row_after;

 private:
  int64_t used_ = 0;
};

// A generation with its reader.
class Call {
 public:
  explicit Call(GenerationRequest request)
      : generation_(
            std::make_shared<Generation>(std::move(request), [bell = bell_] { bell->Ring(); })) {}

  const std::shared_ptr<Generation>& generation() const { return generation_; }

  // Waits for something to read.
  OutputPiece ReadSome() {
    while (true) {
      if (std::optional<OutputPiece> piece = generation_->Take()) return *std::move(piece);
      bell_->Await(std::nullopt);
    }
  }

  // Reads to the end: what came of each choice, and in the last end the usage of all.
  std::vector<OutputPiece> ReadChoices() {
    std::vector<OutputPiece> choices(generation_->request().sampling.n);
    while (true) {
      OutputPiece piece = ReadSome();
      OutputPiece& all = choices.at(piece.choice);
      all.choice = piece.choice;
      all.text += piece.text;
      all.token_ids.insert(all.token_ids.end(), piece.token_ids.begin(), piece.token_ids.end());
      all.logprobs.insert(all.logprobs.end(), piece.logprobs.begin(), piece.logprobs.end());
      all.prompt_logprobs.insert(all.prompt_logprobs.end(), piece.prompt_logprobs.begin(),
                                 piece.prompt_logprobs.end());
      if (piece.end) all.end = std::move(piece.end);
      all.last = piece.last;
      if (piece.last) return choices;
    }
  }

  // That of the only choice, or of the first.
  OutputPiece ReadAll() { return ReadChoices().front(); }

 private:
  const std::shared_ptr<Wakeup> bell_ = std::make_shared<Wakeup>();
  const std::shared_ptr<Generation> generation_;
};

// A greedy request whose text is "<id>" for each token.
inline GenerationRequest Request(std::vector<int64_t> prompt, int64_t max_tokens) {
  GenerationRequest request{.method = "Generate"};
  request.prompt = std::move(prompt);
  request.sampling.max_tokens = max_tokens;
  request.new_token_text = [] {
    return [](std::optional<int64_t> id) {
      return id ? "<" + std::to_string(*id) + ">" : std::string();
    };
  };
  request.unread_tokens_max = 100'000;
  return request;
}

// `request` with `n` choices that are drawn.
inline GenerationRequest Drawn(GenerationRequest request, int n) {
  request.sampling.greedy = false;
  request.sampling.seed = 42;
  request.sampling.n = n;
  request.sampling.best_of = n;
  return request;
}

}  // namespace modeld
