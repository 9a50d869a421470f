// A program that stands in for modeld-engine in tests: same commands, same services, no model. What
// it does is in script.h.
#include <grpcpp/server_builder.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "tests/support/fake_engine/inspect.h"
#include "tests/support/fake_engine/script.h"
#include "tests/support/fake_engine/service.h"

namespace modeld {
namespace {

constexpr int kMessageBytesMax = 64 << 20;

// Returns when the daemon's end of the control socket is closed.
void WaitForEof(int fd) {
  char byte = 0;
  ssize_t count = 0;
  do {
    count = read(fd, &byte, 1);
  } while (count > 0 || (count < 0 && errno == EINTR));
}

int Serve(const std::string& program, const std::map<std::string, std::string>& options) {
  const auto script = ReadScript(program, "");
  if (!script.ok()) {
    std::fprintf(stderr, "fake engine: %s\n", script.status().ToString().c_str());
    return 2;
  }
  if (script->start_crash) {
    std::fprintf(stderr, "fake engine: told to crash at its start\n");
    return 3;
  }
  FakeEngineState state(program);
  FakeEngineService engine(state);
  FakeInferenceService inference(state);
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + options.at("--socket"), grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.RegisterService(&engine);
  builder.RegisterService(&inference);
  const std::unique_ptr<grpc::Server> server =
      script->start_hang ? nullptr : builder.BuildAndStart();
  if (server == nullptr && !script->start_hang) return 4;
  while (script->ignore_eof) pause();
  WaitForEof(std::stoi(options.at("--control-fd")));
  // At once, with calls in flight: what is tested is the daemon, not our farewell.
  _exit(0);
}

int Main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "inspect") return FakeInspect();
  std::map<std::string, std::string> options;
  for (int i = 2; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  if (command == "serve" && options.contains("--socket") && options.contains("--control-fd")) {
    return Serve(argv[0], options);
  }
  std::fprintf(stderr, "usage: fake_engine inspect | serve --socket PATH --control-fd N\n");
  return 2;
}

}  // namespace
}  // namespace modeld

int main(int argc, char** argv) { return modeld::Main(argc, argv); }
