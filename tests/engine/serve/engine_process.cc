#include "tests/engine/serve/engine_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string_view>
#include <utility>

#include "server/base/status.h"
#include "server/wire/status_wire.h"

namespace modeld {
namespace {

// What the child gets at descriptors 0, 1, ...; all else closes on exec.
pid_t Spawn(const std::vector<std::string>& args, const std::vector<std::string>& environment,
            const std::vector<int>& descriptors) {
  std::vector<char*> argv;
  std::vector<std::string> all = {MODELD_ENGINE_PROGRAM};
  all.insert(all.end(), args.begin(), args.end());
  for (std::string& arg : all) argv.push_back(arg.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables = environment;
  std::vector<char*> envp;
  for (std::string& variable : variables) envp.push_back(variable.data());
  for (char** entry = environ; *entry != nullptr; ++entry) envp.push_back(*entry);
  envp.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (size_t i = 0; i < descriptors.size(); ++i) {
    posix_spawn_file_actions_adddup2(&actions, descriptors[i], static_cast<int>(i));
  }
  pid_t pid = -1;
  const int error =
      posix_spawn(&pid, MODELD_ENGINE_PROGRAM, &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  MODELD_CHECK(error == 0, "posix_spawn failed");
  return pid;
}

int WaitFor(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// MergeFrom replaces a string; here texts follow one another.
template <typename Reader>
EngineProcess::Answer ReadAnswer(Reader& reader) {
  EngineProcess::Answer answer;
  modeld::v1::GenerateResponse message;
  while (reader.Read(&message)) {
    message.set_text(answer.all.text() + message.text());
    message.set_reasoning_text(answer.all.reasoning_text() + message.reasoning_text());
    answer.all.MergeFrom(message);
  }
  answer.status = FromGrpcStatus(reader.Finish());
  return answer;
}

}  // namespace

Finished RunEngineProgram(const std::vector<std::string>& args, const std::string& input) {
  int in[2];
  int out[2];
  MODELD_CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "pipe2 failed");
  const pid_t pid = Spawn(args, {}, {in[0], out[1]});
  close(in[0]);
  close(out[1]);
  for (size_t at = 0; at < input.size();) {
    const ssize_t n = write(in[1], input.data() + at, input.size() - at);
    if (n <= 0) break;
    at += n;
  }
  close(in[1]);
  Finished finished;
  char buffer[4096];
  for (ssize_t n; (n = read(out[0], buffer, sizeof(buffer))) > 0;)
    finished.output.append(buffer, n);
  close(out[0]);
  finished.exit_status = WaitFor(pid);
  return finished;
}

EngineProcess::EngineProcess(const std::vector<std::string>& environment) {
  int sockets[2];
  MODELD_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0,
               "socketpair failed");
  control_ = UniqueFd(sockets[0]);
  const UniqueFd child(sockets[1]);
  const std::string socket = folder_.path() + "/engine.sock";
  pid_ = Spawn({"serve", "--socket", socket, "--control-fd", "3", "--log-level", "warning"},
               environment, {0, 1, 2, child.get()});
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // As the daemon has it: what a stream receives ahead of its reader does not grow with its rate.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetMaxReceiveMessageSize(64 << 20);
  channel_ =
      grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
  MODELD_CHECK(
      channel_->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(60)),
      "the engine does not answer");
  inference_ = modeld::v1::Inference::NewStub(channel_);
  engine_ = modeld::engine::v1::Engine::NewStub(channel_);
}

EngineProcess::~EngineProcess() {
  CloseControl();
  Wait();
}

int EngineProcess::Wait() {
  if (pid_ < 0) return -1;
  return WaitFor(std::exchange(pid_, -1));
}

EngineProcess::LoadResult EngineProcess::Load(const std::string& name,
                                              const modeld::engine::v1::RequestLimits& limits,
                                              bool prefix_cache) {
  modeld::engine::v1::LoadRequest request;
  request.set_model_name(name);
  request.set_snapshot_path((std::filesystem::path(MODELD_TEST_MODELS) / name).string());
  request.set_dtype("float32");
  request.set_device_map("cpu");
  (*request.mutable_budget_bytes())["cpu"] = int64_t{1} << 30;
  request.set_threads(1);
  *request.mutable_limits() = limits;
  request.set_prefix_cache_off(!prefix_cache);
  grpc::ClientContext context;
  const auto reader = engine_->Load(&context, request);
  LoadResult result;
  modeld::engine::v1::LoadResponse message;
  while (reader->Read(&message)) result.messages.push_back(message);
  result.status = FromGrpcStatus(reader->Finish());
  return result;
}

EngineProcess::Answer EngineProcess::Generate(const modeld::v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAnswer(*inference_->Generate(&context, request));
}

EngineProcess::Answer EngineProcess::Chat(const modeld::v1::ChatRequest& request) {
  grpc::ClientContext context;
  return ReadAnswer(*inference_->Chat(&context, request));
}

modeld::engine::v1::StatsResponse EngineProcess::StatsNow() {
  grpc::ClientContext context;
  const auto reader = engine_->Stats(&context, {});
  modeld::engine::v1::StatsResponse stats;
  MODELD_CHECK(reader->Read(&stats), "Stats gives nothing");
  context.TryCancel();
  (void)reader->Finish();  // CANCELLED, as asked for
  return stats;
}

}  // namespace modeld
