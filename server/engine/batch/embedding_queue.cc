#include "server/engine/batch/embedding_queue.h"

#include <algorithm>
#include <exception>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/log.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr char kMethod[] = "Embed";

double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// libtorch's messages go on with a backtrace.
std::string FirstLine(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

}  // namespace

EmbeddingJob::EmbeddingJob(std::vector<TokenizedText> texts, Deadline deadline, Done done)
    : texts_(std::move(texts)), deadline_(deadline), done_(std::move(done)) {}

EmbeddingQueue::EmbeddingQueue(const Options& options, Embed embed, Clock& clock)
    : options_(options),
      embed_(std::move(embed)),
      clock_(clock),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

EmbeddingQueue::~EmbeddingQueue() {
  thread_.request_stop();
  {
    MutexLock lock(mutex_);
    changed_.NotifyAll();
  }
  thread_.join();
}

absl::Status EmbeddingQueue::Submit(std::shared_ptr<EmbeddingJob> job) {
  auto work = std::make_unique<Work>();
  const std::vector<TokenizedText>& texts = job->texts();
  work->order.resize(texts.size());
  std::iota(work->order.begin(), work->order.end(), size_t{0});
  std::ranges::stable_sort(work->order, {},
                           [&](size_t text) { return texts[text].token_ids.size(); });
  work->result.vectors.resize(texts.size());
  work->job = std::move(job);
  work->submitted = clock_.Steady();
  MutexLock lock(mutex_);
  if (draining_) return Error(Reason::kModelNotReady, "the model is being unloaded");
  if (unfinished_ >= options_.waiting_max) {
    return Error(
        Reason::kQueueFull,
        absl::StrCat(unfinished_, " requests wait already, at most ", options_.waiting_max, " may"),
        {{"waiting_requests", std::to_string(unfinished_)}});
  }
  arrivals_.push_back(std::move(work));
  ++unfinished_;
  changed_.NotifyAll();
  return absl::OkStatus();
}

int64_t EmbeddingQueue::Drain(std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(mutex_);
  draining_ = true;
  while (unfinished_ > 0 && std::chrono::steady_clock::now() < deadline) {
    changed_.WaitUntil(mutex_, deadline);
  }
  cuts_off_ = true;
  while (unfinished_ > 0) changed_.Wait(mutex_);
  return cut_off_;
}

SchedulerStats EmbeddingQueue::Stats() const {
  MutexLock lock(mutex_);
  SchedulerStats stats = stats_;
  stats.waiting = unfinished_ - stats.active;
  return stats;
}

void EmbeddingQueue::Run(const std::stop_token& stop) {
  while (AwaitWork(stop)) {
    EndUnwanted();
    const std::vector<Item> pass = NextPass();
    if (!pass.empty()) RunPass(pass);
    EndFinished();
  }
  cuts_off_ = true;
  EndUnwanted();
}

// False when the queue ends. Takes what has arrived.
bool EmbeddingQueue::AwaitWork(const std::stop_token& stop) {
  MutexLock lock(mutex_);
  while (works_.empty() && arrivals_.empty() && !stop.stop_requested()) changed_.Wait(mutex_);
  for (auto& work : arrivals_) works_.push_back(std::move(work));
  arrivals_.clear();
  return !stop.stop_requested();
}

// Ends what was cancelled, is past its deadline or is to be cut off.
void EmbeddingQueue::EndUnwanted() {
  const auto now = clock_.Steady();
  for (size_t i = 0; i < works_.size();) {
    const EmbeddingJob& job = *works_[i]->job;
    if (job.cancelled()) {
      End(i, absl::CancelledError("the request was cancelled"), "cancelled");
    } else if (job.deadline() && now >= *job.deadline()) {
      End(i, absl::DeadlineExceededError("the request's deadline passed"), "cancelled");
    } else if (cuts_off_) {
      {
        MutexLock lock(mutex_);
        ++cut_off_;
      }
      End(i, absl::CancelledError("the model is being unloaded"), "cancelled");
    } else {
      ++i;
    }
  }
}

std::vector<EmbeddingQueue::Item> EmbeddingQueue::NextPass() {
  std::vector<Item> pass;
  int64_t tokens = 0;
  bool takes_more = true;
  while (takes_more) {
    takes_more = false;
    for (size_t i = 0; i < works_.size(); ++i) {
      Work& work = *works_[(turn_ + i) % works_.size()];
      if (work.next == work.order.size()) continue;
      const Item item = {&work, work.order[work.next]};
      const int64_t length = std::ssize(item.tokens().token_ids);
      if (!pass.empty() && tokens + length > options_.pass_tokens) continue;
      ++work.next;
      tokens += length;
      pass.push_back(item);
      takes_more = true;
    }
  }
  // The next pass begins with the next job, so that one whose texts never fit beside others has its
  // turn.
  turn_ = works_.empty() ? 0 : (turn_ + 1) % works_.size();
  std::ranges::stable_sort(pass, {},
                           [](const Item& item) { return item.tokens().token_ids.size(); });
  return pass;
}

void EmbeddingQueue::RunPass(const std::vector<Item>& pass) {
  const auto now = clock_.Steady();
  std::vector<const TokenizedText*> texts;
  for (const Item& item : pass) {
    texts.push_back(&item.tokens());
    if (!item.work->started) item.work->started = now;
  }
  {
    MutexLock lock(mutex_);
    stats_.active =
        std::ranges::count_if(works_, [](const auto& work) { return work->started.has_value(); });
    ++stats_.steps;
  }
  std::vector<std::vector<float>> vectors;
  absl::Status failure;
  try {
    vectors = embed_(texts);
  } catch (const std::exception& e) {
    failure = Error(Reason::kInternal, "the forward pass failed: " + FirstLine(e.what()));
    LogError("pass_failed", {{"texts", texts.size()}, {"error", failure}});
  }
  int64_t tokens = 0;
  for (size_t i = 0; i < pass.size(); ++i) {
    const auto& [work, text] = pass[i];
    if (failure.ok()) work->result.vectors[text] = std::move(vectors[i]);
    ++work->done;
    tokens += std::ssize(texts[i]->token_ids);
  }
  if (failure.ok()) {
    MutexLock lock(mutex_);
    stats_.prompt_tokens += tokens;
    return;
  }
  for (size_t i = 0; i < works_.size();) {
    const bool took_part =
        std::ranges::any_of(pass, [&](const Item& item) { return item.work == works_[i].get(); });
    if (took_part) {
      End(i, failure, "error");
    } else {
      ++i;
    }
  }
}

void EmbeddingQueue::EndFinished() {
  for (size_t i = 0; i < works_.size();) {
    if (works_[i]->done == works_[i]->order.size()) {
      End(i, absl::OkStatus(), "stop");
    } else {
      ++i;
    }
  }
}

// Counts before the caller hears of the end.
void EmbeddingQueue::End(size_t index, const absl::Status& status, const char* label) {
  const std::unique_ptr<Work> work = std::move(works_[index]);
  works_.erase(works_.begin() + static_cast<std::ptrdiff_t>(index));
  const auto now = clock_.Steady();
  GenerationUsage& usage = work->result.usage;
  for (const TokenizedText& text : work->job->texts()) {
    usage.prompt_tokens += std::ssize(text.token_ids);
  }
  usage.queue_seconds = Seconds(work->started.value_or(now) - work->submitted);
  usage.total_seconds = Seconds(now - work->submitted);
  {
    MutexLock lock(mutex_);
    if (work->started) --stats_.active;
    ++stats_.finished[{kMethod, label}];
  }
  if (status.ok()) {
    work->job->Finish(std::move(work->result));
  } else {
    work->job->Finish(status);
  }
  MutexLock lock(mutex_);
  --unfinished_;
  changed_.NotifyAll();
}

}  // namespace modeld
