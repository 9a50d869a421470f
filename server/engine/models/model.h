// What the scheduler sees of an architecture: one forward over a batch of sequences.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace modeld {

// What one sequence keeps between steps (paged keys and values, recurrent state, ...). Made by the
// model, owned by the sequence; the destructor gives everything back.
class SequenceState {
 public:
  virtual ~SequenceState() = default;
  // Tokens whose state is held.
  virtual int64_t length() const = 0;
  // Makes room for tokens up to `length`; false when memory does not last (nothing has changed
  // then).
  virtual bool Reserve(int64_t length) = 0;
  // A second state that holds the same tokens and shares with this one what neither writes to any
  // more. Null when memory does not last (nothing has changed then).
  virtual std::unique_ptr<SequenceState> Fork() const = 0;
};

// The new tokens of one sequence in a step: prefill has many, decode has one.
struct Segment {
  SequenceState* state;            // room for length() + token_ids.size() was reserved
  std::vector<int64_t> token_ids;  // follow the tokens whose state is held
  bool wants_logits = true;        // of the last token; false within a chunked prefill
  bool wants_all_logits = false;   // of every token (prompt log-probabilities)
};

// One loaded architecture. One thread at a time (the engine's step thread).
class CausalLm {
 public:
  virtual ~CausalLm() = default;

  // Runs all segments in one pass and advances their states. Returns float32 [rows, vocab] on the
  // CPU: one row for each segment with wants_logits in order, or token_ids.size() rows for one with
  // wants_all_logits.
  virtual at::Tensor Forward(const std::vector<Segment>& segments) = 0;

  virtual std::unique_ptr<SequenceState> NewSequence() = 0;
  // A sequence that holds what is left, of earlier sequences with the same `salt`, of the longest
  // beginning of `token_ids`; of all but the last one at most, whose logits are wanted. What it
  // computes is left in turn for as long as the memory is not needed. A model that leaves nothing
  // makes a new one.
  virtual std::unique_ptr<SequenceState> ResumeSequence(std::span<const int64_t> /*token_ids*/,
                                                        const std::string& /*salt*/) {
    return NewSequence();
  }

  virtual int64_t vocab_size() const = 0;
  virtual int64_t max_context() const = 0;  // as loaded
  // KV memory: blocks in the pool and those that no sequence holds, 0 and 0 for a model without
  // one.
  virtual int64_t kv_tokens_total() const = 0;
  virtual int64_t kv_tokens_free() const = 0;
};

}  // namespace modeld
