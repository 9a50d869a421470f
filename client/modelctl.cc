// modelctl: the command-line client of modeld.
//
// Exit codes: 0 done, 1 refused by the server, 2 wrong usage, 3 server not reached.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>

#include "client/commands.h"
#include "client/completion.h"
#include "server/base/status.h"

namespace {

constexpr int kRefused = 1;
constexpr int kWrongUsage = 2;
constexpr int kNotReached = 3;

// The message, what it is about, and what may be done.
int Report(const absl::Status& status, const std::string& server) {
  if (modeld::NotReached(status)) {
    std::fprintf(stderr, "modelctl: no modeld answers at %s: %s\n", server.c_str(),
                 std::string(status.message()).c_str());
    return kNotReached;
  }
  const modeld::ErrorDetails details = modeld::DetailsOf(status);
  const std::string reason =
      details.reason.empty() ? absl::StatusCodeToString(status.code()) : details.reason;
  std::fprintf(stderr, "modelctl: %s: %s\n", reason.c_str(), std::string(status.message()).c_str());
  if (details.retry_after) {
    std::fprintf(stderr, "modelctl: try again in %.1f s\n",
                 static_cast<double>(details.retry_after->count()) / 1000);
  }
  return kRefused;
}

}  // namespace

int main(int argc, char** argv) {
  modeld::Cli cli;
  if (const char* server = std::getenv("MODELD_SERVER"); server != nullptr && *server != '\0') {
    cli.server = server;
  }
  CLI::App app("The command-line client of modeld.", "modelctl");
  app.add_option("--server", cli.server, "HOST:PORT of modeld, or $MODELD_SERVER")
      ->capture_default_str();
  app.add_option("-o,--output", cli.output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  app.set_version_flag("--version", MODELD_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  modeld::AddRegistryCommands(app, cli);
  modeld::AddCacheCommands(app, cli);
  modeld::AddOrchestratorCommands(app, cli);
  modeld::AddLimitCommands(app, cli);
  modeld::AddInferenceCommands(app, cli);
  modeld::AddCompletionCommand(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongUsage;
  }
  if (!cli.action) return 0;
  modeld::Client client(cli.server);
  const absl::Status status = cli.action(client);
  return status.ok() ? 0 : Report(status, cli.server);
}
