// The beams of one generation between the scheduler, which runs each as a sequence, and BeamSearch.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/engine/batch/beam_search.h"
#include "server/engine/batch/request.h"

namespace modeld {

class Sequence;

// Belongs to the step thread.
class BeamGroup {
 public:
  // `request` outlives the group.
  BeamGroup(const GenerationRequest& request, std::vector<int64_t> end_token_ids);

  // Of running(), in its order; the first is the one that was submitted. Only that one is there
  // while the beams have no state.
  std::vector<Sequence*> members;
  absl::Status failure;  // of a step that a member took part in
  bool folded = false;   // the states of the beams are to be made from that of the prompt

  const std::vector<Hypothesis>& running() const { return search_.running(); }
  bool done() const { return search_.done(); }

  // Keeps the logits that follow a member; a failure when they are no distribution.
  void Put(const Sequence& member, std::span<const float> logits);
  // Whether each member has its logits.
  bool is_complete() const;
  void Forget() { rows_.clear(); }

  // One step of the search from the logits of all, which are forgotten. Which beam each of
  // running() continues. INVALID_FIELD when the request's bans leave too few continuations.
  absl::StatusOr<std::vector<int>> Advance();

  // Tokens that beams have got in all steps.
  int64_t generated() const { return generated_; }

  // The last pieces of all choices, which have what the search has found. Where a hypothesis has no
  // end of its own, `end` says why it stands where it does.
  std::vector<OutputPiece> Answer(GenerationEnd end) const;

 private:
  std::vector<float> ScoresOf(size_t beam) const;

  const GenerationRequest& request_;
  const std::vector<int64_t> end_token_ids_;
  BeamSearch search_;
  std::vector<std::vector<float>> rows_;  // of members that have them; empty ones for the others
  int64_t generated_ = 0;
};

}  // namespace modeld
