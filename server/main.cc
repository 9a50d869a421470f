// modeld: reads the configuration, makes the objects from the bottom up, tells systemd, waits,
// drains.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>

#include "server/base/log.h"
#include "server/config/config.h"
#include "server/config/config_keys.h"
#include "server/daemon.h"

namespace {

constexpr int kBadConfig = 2;
constexpr int kFailed = 1;

std::map<std::string, std::string> Environment() {
  std::map<std::string, std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string::npos) out[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return out;
}

// Where this program lies; modeld-engine lies beside it.
std::string ProgramPath() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).string();
}

// Signals are waited for in Daemon::Run(); every thread made from here on leaves them alone.
void BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

}  // namespace

int main(int argc, char** argv) {
  BlockSignals();
  modeld::ConfigSources sources{.environment = Environment(), .program_path = ProgramPath()};
  bool check_config = false;
  CLI::App app("Turns Hugging Face repositories into served models.", "modeld");
  app.add_option("--config", sources.file, "TOML file (/etc/modeld/modeld.toml)");
  app.add_flag("--check-config", check_config, "Say what is wrong with the configuration and end");
  app.set_version_flag("--version", modeld::VersionText());
  for (const modeld::ConfigKey& key : modeld::AllConfigKeys()) {
    app.add_option_function<std::string>(
        key.flag(),
        [&sources, name = key.name()](const std::string& value) { sources.flags[name] = value; },
        key.help);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadConfig;
  }
  const modeld::ConfigResult result = modeld::LoadConfig(sources);
  for (const modeld::ConfigProblem& problem : result.problems) {
    std::fprintf(stderr, "%s: %s\n", problem.where.c_str(), problem.what.c_str());
  }
  if (!result.problems.empty()) return kBadConfig;
  if (check_config) return 0;

  for (const modeld::ConfigProblem& warning : result.warnings) {
    modeld::LogWarning("config_warning", {{"where", warning.where}, {"what", warning.what}});
  }
  auto daemon = modeld::Daemon::Start(result.config);
  if (!daemon.ok()) {
    modeld::LogError("daemon_not_started", {{"error", daemon.status()}});
    return kFailed;
  }
  return (*daemon)->Run().ok() ? 0 : kFailed;
}
