// How the scheduler runs beam search: each beam is a sequence, and all of them take a step when
// each has its logits. Where memory does not last they lose their states together and begin again
// from the prompt, which they share.
#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "server/engine/batch/scheduler.h"

namespace modeld {

// Beams that wait for their siblings have no token pending, so that no step reads them.
void Scheduler::StepBeams(const std::shared_ptr<BeamGroup>& group, Sequence::Time now) {
  Sequence& leader = *group->members.front();
  if (!group->failure.ok()) {
    Retire(leader, leader.Stop(group->failure, FinishReason::kStop, now));
    return;
  }
  if (!group->is_complete()) return;
  std::vector<int> parents(group->running().size(), 0);  // of what was folded: the prompt
  if (group->folded) {
    group->Forget();
  } else {
    const int64_t before = group->generated();
    absl::StatusOr<std::vector<int>> advanced = group->Advance();
    if (!advanced.ok()) {
      Retire(leader, leader.Stop(advanced.status(), FinishReason::kStop, now));
      return;
    }
    leader.NoteToken(now);
    Count(leader, group->generated() - before);
    parents = *std::move(advanced);
  }
  if (group->done()) {
    RetireBeams(*group, leader.Stop(absl::OkStatus(), FinishReason::kLength, now));
    return;
  }
  if (ShareStates(*group, parents)) return;
  if (IsAlone(leader)) {
    EndUnfit(leader);
  } else {
    Preempt(leader);
  }
}

// Gives each of running() a sequence with its tokens and the state of the beam that it continues.
// False when memory does not last; then there are less states than beams.
bool Scheduler::ShareStates(BeamGroup& group, const std::vector<int>& parents) {
  std::vector<std::unique_ptr<SequenceState>> states(parents.size());
  for (size_t i = 0; i < parents.size(); ++i) {
    const bool is_last_child =
        std::count(parents.begin() + static_cast<ptrdiff_t>(i) + 1, parents.end(), parents[i]) == 0;
    std::unique_ptr<SequenceState>& parent = group.members[parents[i]]->state;
    states[i] = is_last_child ? std::move(parent) : parent->Fork();
    if (!states[i]) return false;
  }
  Sequence& leader = *group.members.front();
  if (group.members.size() > parents.size()) {
    Bury(std::span(group.members).subspan(parents.size()));
    group.members.resize(parents.size());
  }
  while (group.members.size() < parents.size()) {
    const auto number = static_cast<int>(group.members.size());
    auto sibling = std::make_unique<Sequence>(leader.id(), leader.Share(), number, /*seed=*/0,
                                              clock_.Steady());
    sibling->beams = leader.beams;
    sibling->prompt_tokens_counted = leader.prompt_tokens_counted;
    group.members.push_back(&InsertSibling(std::move(sibling)));
  }
  for (size_t i = 0; i < parents.size(); ++i) {
    group.members[i]->state = std::move(states[i]);
    group.members[i]->Replace(group.running()[i].tokens);
  }
  group.folded = false;
  return true;
}

// What beams have found stays; the leader reads the prompt again, and they go on from there.
void Scheduler::Fold(BeamGroup& group) {
  group.Forget();
  group.folded = !group.running().front().tokens.empty();
  Sequence& leader = *group.members.front();
  leader.state.reset();
  leader.Replace({});
  Bury(std::span(group.members).subspan(1));
  group.members = {&leader};
}

// Frees the states now and the sequences when no plan can name them any more.
void Scheduler::Bury(std::span<Sequence* const> sequences) {
  for (auto& owned : sequences_) {
    if (std::ranges::count(sequences, owned.get()) == 0) continue;
    owned->state.reset();
    buried_.push_back(std::move(owned));
  }
  std::erase(sequences_, nullptr);
}

// Ends the search with what it has found; `end` has the times of the request.
void Scheduler::RetireBeams(BeamGroup& group, GenerationEnd end) {
  const std::shared_ptr<Generation> generation = group.members.front()->Share();
  Bury(group.members);
  Settle(generation, group.Answer(std::move(end)));
}

}  // namespace modeld
