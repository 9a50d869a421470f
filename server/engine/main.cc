// modeld-engine: inspects a repository's small files, or serves one model on a Unix socket.
//
// Exit status: 0 done; 1 could not start, or no answer from inspect; 2 wrong usage; as
// serve_main.cc has them for serve.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "CLI/CLI.hpp"
#include "server/base/log.h"
#include "server/engine/sandbox.h"
#include "server/engine/weights/inspect_command.h"

namespace modeld {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

// Beside this program. Its own command line is the same.
int Serve(char** argv) {
  std::error_code error;
  const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string program = (own.parent_path() / "modeld-engine-serve").string();
  execv(program.c_str(), argv);
  LogError("engine_program_missing", {{"path", program}, {"error", std::strerror(errno)}});
  return kExitFailed;
}

int Inspect() {
  // Headers of a repository are some 100 MB at most.
  if (const absl::Status status = EnterSandbox({.sockets = SocketRule::kNone,
                                                .address_space_bytes = int64_t{8} << 30,
                                                .cpu_seconds = 30});
      !status.ok()) {
    LogError("sandbox_failed", {{"error", status}});
    return kExitFailed;
  }
  return InspectMain();
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "serve") return Serve(argv);
  ForgetSecrets();
  CLI::App app("Serves one model for modeld on a Unix socket.");
  app.set_version_flag("--version", std::string("modeld-engine ") + MODELD_VERSION + " commit " +
                                        MODELD_COMMIT + " libtorch " + MODELD_LIBTORCH);
  app.require_subcommand(1);
  app.add_subcommand("serve", "Serve modeld.engine.v1 and modeld.v1.Inference");
  app.add_subcommand("inspect", "Read a repository's small files on stdin");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kExitUsage;
  }
  return Inspect();
}

}  // namespace
}  // namespace modeld

#if defined(__SANITIZE_ADDRESS__)
// The leak check stops the other threads by ptrace, which the sandbox refuses.
extern "C" int __lsan_is_turned_off() { return 1; }
#endif

int main(int argc, char** argv) { return modeld::Main(argc, argv); }
