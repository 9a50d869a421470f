#include "tests/support/fake_engine/service.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "server/base/clock.h"
#include "server/base/file.h"
#include "server/core/reason.h"
#include "server/wire/status_wire.h"

namespace modeld {
namespace {

namespace enginepb = modeld::engine::v1;

// The seam for time of this program; nothing here polls faster than this.
constexpr auto kPoll = std::chrono::milliseconds(10);

// Waits for `ms`; false when the call was cancelled.
bool Pause(grpc::ServerContext& context, int64_t ms) {
  const auto end = Clock::Real().Steady() + std::chrono::milliseconds(ms);
  while (!context.IsCancelled()) {
    const auto left = end - Clock::Real().Steady();
    if (left <= left.zero()) return true;
    Clock::Real().Sleep(std::min<std::chrono::nanoseconds>(left, kPoll), {});
  }
  return false;
}

grpc::Status HangUntilCancelled(grpc::ServerContext& context) {
  while (Pause(context, 1000)) {
  }
  return grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
}

[[noreturn]] void Crash(const char* where) {
  std::fprintf(stderr, "fake engine: told to crash %s\n", where);
  std::abort();
}

// Parts of a file with '\0' between them.
std::vector<std::string> NulSeparated(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<std::string> parts;
  for (std::string part; std::getline(in, part, '\0');) parts.push_back(part);
  return parts;
}

// Descriptors of this process above stderr with what they are, as /proc says.
std::vector<std::string> Descriptors() {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    const auto target = std::filesystem::read_symlink(entry.path(), error);
    found.push_back(entry.path().filename().string() + " " + target.string());
  }
  return found;
}

absl::Status WriteReport(const std::string& path, const enginepb::LoadRequest& request,
                         const std::vector<std::string>& descriptors) {
  const nlohmann::json report = {
      {"environment", NulSeparated("/proc/self/environ")},
      {"arguments", NulSeparated("/proc/self/cmdline")},
      {"descriptors", descriptors},
      {"load",
       {{"snapshot_path", request.snapshot_path()},
        {"dtype", request.dtype()},
        {"max_context", request.max_context()},
        {"threads", request.threads()},
        {"stop_max", request.limits().stop_max()},
        {"budget_bytes", std::map<std::string, int64_t>(request.budget_bytes().begin(),
                                                        request.budget_bytes().end())}}}};
  return WriteFileAtomically(path, report.dump());
}

enginepb::DeviceMemory MemoryOf(const FakeEngineScript& script,
                                const enginepb::LoadRequest& request) {
  std::string device = script.device;
  int64_t largest = -1;
  for (const auto& [name, bytes] : request.budget_bytes()) {
    if (!script.device.empty() || bytes <= largest) continue;
    device = name;
    largest = bytes;
  }
  enginepb::DeviceMemory memory;
  memory.set_device(device.empty() ? "cpu" : device);
  memory.set_weights_bytes(script.weights_bytes);
  memory.set_kv_cache_bytes(script.kv_cache_bytes);
  memory.set_workspace_bytes(script.workspace_bytes);
  return memory;
}

}  // namespace

FakeEngineScript FakeEngineState::script() const {
  MutexLock lock(mutex_);
  return script_;
}

void FakeEngineState::SetLoaded(const FakeEngineScript& script,
                                std::vector<enginepb::DeviceMemory> devices) {
  MutexLock lock(mutex_);
  script_ = script;
  devices_ = std::move(devices);
  loaded_ = true;
}

absl::Status FakeEngineState::Begin() {
  MutexLock lock(mutex_);
  if (!loaded_ || draining_) return Error(Reason::kModelNotReady, "the engine is not ready");
  ++active_;
  return absl::OkStatus();
}

void FakeEngineState::AddTokens(int64_t prompt, int64_t generated) {
  MutexLock lock(mutex_);
  prompt_tokens_ += prompt;
  generated_tokens_ += generated;
}

void FakeEngineState::End(const std::string& method, const std::string& finish_reason) {
  MutexLock lock(mutex_);
  --active_;
  ++finished_[{method, finish_reason}];
  changed_.NotifyAll();
}

int64_t FakeEngineState::Drain(int64_t timeout_ms) {
  const auto deadline = Clock::Real().Steady() + std::chrono::milliseconds(timeout_ms);
  MutexLock lock(mutex_);
  draining_ = true;
  while (active_ > 0 && changed_.WaitUntil(mutex_, deadline)) {
  }
  cut_off_ = true;
  return active_;
}

bool FakeEngineState::cut_off() const {
  MutexLock lock(mutex_);
  return cut_off_;
}

enginepb::StatsResponse FakeEngineState::Stats() const {
  MutexLock lock(mutex_);
  enginepb::StatsResponse stats;
  for (const auto& memory : devices_) *stats.add_devices() = memory;
  stats.set_active_requests(script_.active_requests >= 0 ? script_.active_requests : active_);
  stats.set_waiting_requests(script_.waiting_requests);
  stats.set_kv_cache_used_ratio(active_ > 0 ? 0.5 : 0);
  stats.set_prompt_tokens_total(prompt_tokens_);
  stats.set_generated_tokens_total(generated_tokens_);
  for (const auto& [what, count] : finished_) {
    auto* finished = stats.add_finished();
    finished->set_method(what.first);
    finished->set_finish_reason(what.second);
    finished->set_count(count);
  }
  stats.set_steps_total(generated_tokens_);
  return stats;
}

grpc::Status FakeEngineService::Load(grpc::ServerContext* context,
                                     const enginepb::LoadRequest* request,
                                     grpc::ServerWriter<enginepb::LoadResponse>* writer) {
  const auto read = ReadScript(state_.program_path(), request->snapshot_path());
  if (!read.ok()) return ToGrpcStatus(read.status());
  const FakeEngineScript& script = *read;
  if (!script.report.empty()) {
    if (const absl::Status status = WriteReport(script.report, *request, Descriptors());
        !status.ok()) {
      return ToGrpcStatus(status);
    }
  }
  if (script.load_hang) return HangUntilCancelled(*context);
  if (const auto reason = ParseReason(script.load_error)) {
    return ToGrpcStatus(
        Error(*reason, "the fake engine was told to refuse " + request->model_name()));
  }
  enginepb::LoadResponse message;
  message.set_phase(enginepb::LoadResponse::PHASE_READING);
  message.set_bytes_total(script.weights_bytes);
  for (int64_t step = 0; step < script.load_steps; ++step) {
    if (step == script.load_crash_step) Crash("while it loads");
    if (!Pause(*context, script.load_step_ms)) return grpc::Status::CANCELLED;
    message.set_bytes_done(script.weights_bytes * (step + 1) / script.load_steps);
    writer->Write(message);
  }
  while (!script.load_gate.empty() && !std::filesystem::exists(script.load_gate)) {
    if (!Pause(*context, 10)) return grpc::Status::CANCELLED;
  }
  const enginepb::DeviceMemory memory = MemoryOf(script, *request);
  state_.SetLoaded(script, {memory});
  message.set_phase(enginepb::LoadResponse::PHASE_READY);
  *message.mutable_ready()->add_devices() = memory;
  message.mutable_ready()->set_max_context(request->max_context() > 0 ? request->max_context()
                                                                      : script.max_context);
  message.mutable_ready()->set_sequences_max(static_cast<int32_t>(script.sequences_max));
  writer->Write(message);
  return grpc::Status::OK;
}

grpc::Status FakeEngineService::Stats(grpc::ServerContext* context,
                                      const enginepb::StatsRequest* /*request*/,
                                      grpc::ServerWriter<enginepb::StatsResponse>* writer) {
  const int64_t period_ms = state_.script().stats_ms;
  do {
    if (!writer->Write(state_.Stats())) break;
  } while (Pause(*context, period_ms));
  return grpc::Status::OK;
}

grpc::Status FakeEngineService::Drain(grpc::ServerContext* context,
                                      const enginepb::DrainRequest* request,
                                      enginepb::DrainResponse* response) {
  if (state_.script().ignore_drain) return HangUntilCancelled(*context);
  response->set_cut_off(state_.Drain(request->timeout_ms()));
  return grpc::Status::OK;
}

struct FakeInferenceService::Answer {
  std::string method;
  std::vector<std::string> words;
  int64_t prompt_tokens = 0;
  const modeld::v1::Sampling& sampling;
};

namespace {

std::vector<std::string> Words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words{std::istream_iterator<std::string>(in), {}};
  if (words.empty()) words.emplace_back("nothing");
  return words;
}

}  // namespace

grpc::Status FakeInferenceService::Stream(
    grpc::ServerContext& context, const Answer& answer,
    grpc::ServerWriter<modeld::v1::GenerateResponse>& writer) {
  if (const absl::Status status = state_.Begin(); !status.ok()) return ToGrpcStatus(status);
  const FakeEngineScript script = state_.script();
  const int64_t asked =
      answer.sampling.has_max_tokens() ? answer.sampling.max_tokens() : script.tokens;
  const int64_t count = answer.sampling.ignore_eos() ? asked : std::min(asked, script.tokens);
  state_.AddTokens(answer.prompt_tokens, 0);
  int64_t done = 0;
  for (; done < count && !state_.cut_off(); ++done) {
    if (done == script.crash_after_tokens) Crash("while it generates");
    if (done == script.hang_after_tokens) {
      while (!state_.cut_off() && Pause(context, 10)) {
      }
    }
    if (!Pause(context, script.token_ms)) break;
    modeld::v1::GenerateResponse message;
    message.set_text(answer.words[done % answer.words.size()] + " ");
    message.add_token_ids(done);
    if (!writer.Write(message)) break;
    state_.AddTokens(0, 1);
  }
  if (context.IsCancelled()) {
    state_.End(answer.method, "cancelled");
    return grpc::Status::CANCELLED;
  }
  const bool cut = done < count;
  modeld::v1::GenerateResponse last;
  last.set_finish_reason(cut                      ? modeld::v1::FINISH_REASON_CANCELLED
                         : count == script.tokens ? modeld::v1::FINISH_REASON_STOP
                                                  : modeld::v1::FINISH_REASON_LENGTH);
  last.mutable_usage()->set_prompt_tokens(answer.prompt_tokens);
  last.mutable_usage()->set_generated_tokens(done);
  writer.Write(last);
  state_.End(answer.method, cut ? "cancelled" : count == script.tokens ? "stop" : "length");
  return grpc::Status::OK;
}

grpc::Status FakeInferenceService::Generate(
    grpc::ServerContext* context, const modeld::v1::GenerateRequest* request,
    grpc::ServerWriter<modeld::v1::GenerateResponse>* writer) {
  if (request->prompt().empty() == request->token_ids().empty()) {
    return ToGrpcStatus(InvalidField("prompt", "exactly one of prompt and token_ids is set"));
  }
  const std::string prompt = request->prompt().empty() ? std::string(request->token_ids().begin(),
                                                                     request->token_ids().end())
                                                       : request->prompt();
  return Stream(
      *context,
      {"Generate", Words(prompt), static_cast<int64_t>(prompt.size()), request->sampling()},
      *writer);
}

grpc::Status FakeInferenceService::Chat(grpc::ServerContext* context,
                                        const modeld::v1::ChatRequest* request,
                                        grpc::ServerWriter<modeld::v1::GenerateResponse>* writer) {
  if (state_.script().no_chat_template) {
    return ToGrpcStatus(Error(Reason::kNoChatTemplate, "the repository has no chat template"));
  }
  if (request->messages().empty()) {
    return ToGrpcStatus(InvalidField("messages", "is empty"));
  }
  const std::string& content = request->messages(request->messages_size() - 1).content();
  return Stream(*context,
                {"Chat", Words(content), static_cast<int64_t>(content.size()), request->sampling()},
                *writer);
}

grpc::Status FakeInferenceService::Embed(grpc::ServerContext* /*context*/,
                                         const modeld::v1::EmbedRequest* /*request*/,
                                         modeld::v1::EmbedResponse* /*response*/) {
  return ToGrpcStatus(MethodNotSupported("Embed"));
}

grpc::Status FakeInferenceService::Tokenize(grpc::ServerContext* /*context*/,
                                            const modeld::v1::TokenizeRequest* request,
                                            modeld::v1::TokenizeResponse* response) {
  for (const char c : request->text()) {
    response->add_token_ids(static_cast<unsigned char>(c));
    response->add_tokens(std::string(1, c));
  }
  return grpc::Status::OK;
}

grpc::Status FakeInferenceService::Detokenize(grpc::ServerContext* /*context*/,
                                              const modeld::v1::DetokenizeRequest* request,
                                              modeld::v1::DetokenizeResponse* response) {
  std::string text;
  for (const int64_t id : request->token_ids()) text += static_cast<char>(id);
  response->set_text(text);
  return grpc::Status::OK;
}

grpc::Status FakeInferenceService::ApplyChatTemplate(
    grpc::ServerContext* /*context*/, const modeld::v1::ApplyChatTemplateRequest* request,
    modeld::v1::ApplyChatTemplateResponse* response) {
  if (state_.script().no_chat_template) {
    return ToGrpcStatus(Error(Reason::kNoChatTemplate, "the repository has no chat template"));
  }
  std::string prompt;
  for (const auto& message : request->messages()) {
    prompt += "<" + message.role() + ">" + message.content() + "\n";
  }
  if (!request->has_add_generation_prompt() || request->add_generation_prompt()) {
    prompt += "<assistant>";
  }
  for (const char c : prompt) response->add_token_ids(static_cast<unsigned char>(c));
  response->set_prompt(prompt);
  return grpc::Status::OK;
}

}  // namespace modeld
