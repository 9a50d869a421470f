// What `modeld-engine serve` becomes: serves one model on a Unix socket. A program of its own,
// since libtorch takes a third of a second to load, which `modeld-engine inspect` shall not wait
// for.
//
// Exit status: 0 done, or the daemon is gone; 1 could not start; 2 wrong usage; 3 did not end in
// time after SIGTERM.
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <iterator>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "server/base/clock.h"
#include "server/base/executor.h"
#include "server/base/file.h"
#include "server/base/log.h"
#include "server/core/reason.h"
#include "server/engine/engine_service.h"
#include "server/engine/inference_service.h"
#include "server/engine/sandbox.h"
#include "server/engine/serving_model.h"

namespace modeld {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitStuck = 3;
constexpr int kMessageBytesMax = 64 << 20;  // of the contract, on every hop
constexpr int kTextThreads = 2;             // tokenizing and templates
constexpr auto kShutdownLimit = std::chrono::seconds(10);

struct ServeFlags {
  std::string socket;
  int control_fd = -1;
  LogLevel log_level = LogLevel::kInfo;
  int threads_max = 0;
  int waiting_max = Scheduler::Options().waiting_max;
  int sequences_max = Scheduler::Options().sequences_max;
};

// Signals are for sigwait() alone; threads inherit this.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigset_t blocked = signals;
  sigaddset(&blocked, SIGPIPE);
  sigaddset(&blocked, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  return signals;
}

// Ends the process when the other end of a descriptor is closed: the daemon holds it as long as it
// lives, however it dies. Without destructors, as memory and socket go with the process.
class DaemonWatch {
 public:
  explicit DaemonWatch(int fd) : thread_([this, fd] { Watch(fd); }) {}
  ~DaemonWatch() { eventfd_write(stop_.get(), 1); }
  DaemonWatch(const DaemonWatch&) = delete;
  DaemonWatch& operator=(const DaemonWatch&) = delete;

 private:
  void Watch(int fd) {
    while (true) {
      pollfd polled[] = {{.fd = fd, .events = POLLIN, .revents = 0},
                         {.fd = stop_.get(), .events = POLLIN, .revents = 0}};
      if (poll(polled, std::size(polled), -1) < 0) continue;
      if (polled[1].revents != 0) return;
      char byte;
      const ssize_t n = read(fd, &byte, 1);
      if (n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN))) continue;
      LogInfo("daemon_gone");
      _exit(0);
    }
  }

  const UniqueFd stop_{eventfd(0, EFD_CLOEXEC)};
  std::jthread thread_;  // last, so that it ends before what it uses
};

// Shutdown() has no bound of its own when a peer stops reading.
void ExitWhenStuck(const std::stop_token& done) {
  if (!Clock::Real().Sleep(kShutdownLimit, done)) return;
  LogError("shutdown_stuck", {{"seconds", kShutdownLimit.count()}});
  _exit(kExitStuck);
}

std::unique_ptr<grpc::Server> StartServer(const std::string& socket, grpc::Service& engine,
                                          grpc::Service& inference) {
  unlink(socket.c_str());
  const mode_t mask = umask(0077);  // the socket is for this user alone
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  builder.RegisterService(&engine);
  builder.RegisterService(&inference);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  umask(mask);
  return server;
}

int Serve(const ServeFlags& flags) {
  const sigset_t signals = BlockSignals();
  SetLogLevel(flags.log_level);
  if (flags.socket.size() >= sizeof(sockaddr_un::sun_path)) {
    LogError("socket_path_too_long", {{"path", flags.socket}});
    return kExitUsage;
  }
  if (const absl::Status status = EnterSandbox({.sockets = SocketRule::kUnixOnly}); !status.ok()) {
    LogError("sandbox_failed", {{"error", status}});
    return kExitFailed;
  }
  const DaemonWatch watch(flags.control_fd);

  Executor executor({.threads = kTextThreads, .waiting_max = flags.waiting_max});
  ModelSlot slot;
  EngineService engine(
      {.scheduler = {.sequences_max = flags.sequences_max, .waiting_max = flags.waiting_max},
       .threads_max = flags.threads_max},
      slot, Clock::Real());
  InferenceService inference(slot, executor);
  const std::unique_ptr<grpc::Server> server = StartServer(flags.socket, engine, inference);
  if (!server) {
    LogError("socket_failed", {{"path", flags.socket}});
    return kExitFailed;
  }
  LogInfo("engine_started", {{"socket", flags.socket}, {"pid", getpid()}});

  int signal = 0;
  sigwait(&signals, &signal);
  LogInfo("engine_stopping", {{"signal", signal}});
  const std::jthread stuck([](const std::stop_token& done) { ExitWhenStuck(done); });
  if (const auto model = slot.Get(); model.ok()) (*model)->Drain({});
  server->Shutdown(std::chrono::system_clock::now());
  server->Wait();
  unlink(flags.socket.c_str());
  return 0;
}

int Main(int argc, char** argv) {
  ForgetSecrets();
  prctl(PR_SET_NAME, "modeld-engine");  // what process lists show
  CLI::App app("Serves one model for modeld on a Unix socket.");
  app.require_subcommand(1);
  ServeFlags flags;
  CLI::App* serve = app.add_subcommand("serve", "Serve modeld.engine.v1 and modeld.v1.Inference");
  serve->add_option("--socket", flags.socket, "Path of the Unix socket")->required();
  serve
      ->add_option("--control-fd", flags.control_fd,
                   "Inherited descriptor; its end ends the process")
      ->required()
      ->check(CLI::NonNegativeNumber);
  const std::map<std::string, LogLevel> levels = {{"debug", LogLevel::kDebug},
                                                  {"info", LogLevel::kInfo},
                                                  {"warning", LogLevel::kWarning},
                                                  {"error", LogLevel::kError}};
  serve->add_option("--log-level", flags.log_level, "Lines below it are dropped")
      ->transform(CLI::CheckedTransformer(levels));
  serve->add_option("--threads", flags.threads_max, "CPU threads at most; 0: one for each core")
      ->check(CLI::NonNegativeNumber);
  serve->add_option("--waiting-max", flags.waiting_max, "Requests that may wait")
      ->check(CLI::PositiveNumber);
  serve->add_option("--sequences-max", flags.sequences_max, "Sequences in one step")
      ->check(CLI::PositiveNumber);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kExitUsage;
  }
  return Serve(flags);
}

}  // namespace
}  // namespace modeld

#if defined(__SANITIZE_ADDRESS__)
// The leak check stops the other threads by ptrace, which the sandbox refuses.
extern "C" int __lsan_is_turned_off() { return 1; }
#endif

int main(int argc, char** argv) { return modeld::Main(argc, argv); }
