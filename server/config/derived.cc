#include "server/config/derived.h"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "server/base/file.h"
#include "server/config/memory_limit.h"

namespace modeld {
namespace {

constexpr int64_t kSecretBytesMax = 64 << 10;
constexpr char kTokenCredential[] = "hub_token";

class Environment {
 public:
  explicit Environment(const std::map<std::string, std::string>& variables)
      : variables_(variables) {}

  const char* Find(const std::string& name) const {
    const auto found = variables_.find(name);
    return found == variables_.end() || found->second.empty() ? nullptr : found->second.c_str();
  }
  std::string Get(const std::string& name, const std::string& otherwise) const {
    const char* value = Find(name);
    return value == nullptr ? otherwise : value;
  }
  // The first of a ':'-separated list, as systemd sets STATE_DIRECTORY for several folders.
  std::string First(const std::string& name, const std::string& otherwise) const {
    const std::string value = Get(name, otherwise);
    return value.substr(0, value.find(':'));
  }

 private:
  const std::map<std::string, std::string>& variables_;
};

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 && name[0] != '\0' ? name.data()
                                                                           : "localhost";
}

std::string HomeDirectory(const Environment& environment) {
  if (const char* home = environment.Find("HOME")) return home;
  passwd entry{};
  passwd* found = nullptr;
  std::array<char, 4096> buffer{};
  const bool known = getpwuid_r(getuid(), &entry, buffer.data(), buffer.size(), &found) == 0;
  return known && found != nullptr ? found->pw_dir : "/";
}

std::string ExpandHome(const char* path, const std::string& home) {
  const std::string text = path == nullptr ? "" : path;
  return text == "~" || text.starts_with("~/") ? home + text.substr(1) : text;
}

// The path of the file that `name` means; empty when there is none.
std::string SecretPath(const std::string& key, const std::string& name,
                       const Environment& environment, ConfigResult& result) {
  if (name.find('/') != std::string::npos) return name;
  if (const char* folder = environment.Find("CREDENTIALS_DIRECTORY")) {
    return std::string(folder) + "/" + name;
  }
  result.problems.push_back({key, "\"" + name +
                                      "\" is a systemd credential, but $CREDENTIALS_DIRECTORY "
                                      "is not set; give a path with '/' for a file"});
  return "";
}

// What is in the file, without the newline at its end.
std::string ReadSecret(const std::string& key, const std::string& path, ConfigResult& result) {
  if (path.empty()) return "";
  absl::StatusOr<std::string> secret = ReadFile(path, kSecretBytesMax);
  if (!secret.ok()) {
    result.problems.push_back({key, std::string(secret.status().message())});
    return "";
  }
  struct stat info{};
  if (stat(path.c_str(), &info) == 0 && (info.st_mode & S_IROTH) != 0) {
    result.warnings.push_back({key, path + " can be read by everybody; chmod 0640 it"});
  }
  while (!secret->empty() && (secret->back() == '\n' || secret->back() == '\r')) secret->pop_back();
  if (secret->empty()) result.problems.push_back({key, path + " is empty"});
  return *std::move(secret);
}

// As huggingface_hub reads its switches.
bool IsOn(std::string text) {
  for (char& c : text) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return text == "1" || text == "ON" || text == "YES" || text == "TRUE";
}

std::vector<Config::Mirror> ParseMirrors(ConfigResult& result) {
  std::vector<Config::Mirror> mirrors;
  for (const std::string& entry : result.config.hub.mirrors) {
    std::istringstream words(entry);
    Config::Mirror mirror;
    std::string option;
    std::string more;
    words >> mirror.url >> option >> more;
    mirror.send_token = option == "send-token";
    if ((!option.empty() && !mirror.send_token) || !more.empty()) {
      result.problems.push_back(
          {"hub.mirrors", "\"" + entry + "\" is neither \"URL\" nor \"URL send-token\""});
    }
    while (mirror.url.ends_with('/')) mirror.url.pop_back();
    mirrors.push_back(mirror);
  }
  return mirrors;
}

void FillHub(const Environment& environment, ConfigResult& result) {
  Config& config = result.config;
  Config::Hub& hub = config.hub;
  if (hub.endpoint.empty()) hub.endpoint = environment.Get("HF_ENDPOINT", "https://huggingface.co");
  while (hub.endpoint.ends_with('/')) hub.endpoint.pop_back();
  config.hub_mirrors = ParseMirrors(result);
  if (hub.credentials_dir.empty())
    hub.credentials_dir = environment.Get("CREDENTIALS_DIRECTORY", "");
  hub.offline = hub.offline || IsOn(environment.Get("HF_HUB_OFFLINE", ""));

  if (!hub.token_file.empty()) {
    config.hub_token_path = SecretPath("hub.token_file", hub.token_file, environment, result);
  } else if (const char* token = environment.Find("HF_TOKEN")) {
    config.hub_token = token;
    return;
  } else if (const char* folder = environment.Find("CREDENTIALS_DIRECTORY")) {
    const std::string path = std::string(folder) + "/" + kTokenCredential;
    if (access(path.c_str(), F_OK) == 0) config.hub_token_path = path;
  }
  config.hub_token = ReadSecret("hub.token_file", config.hub_token_path, result);
}

}  // namespace

void FillDerived(const ConfigSources& sources, ConfigResult& result) {
  const Environment environment(sources.environment);
  Config& config = result.config;
  const std::string home = HomeDirectory(environment);
  if (config.node.name.empty()) config.node.name = HostName();
  if (config.node.state_dir.empty()) {
    config.node.state_dir = environment.First("STATE_DIRECTORY", "/var/lib/modeld");
  }
  if (config.engine.socket_dir.empty()) {
    config.engine.socket_dir =
        environment.First("RUNTIME_DIRECTORY", config.node.state_dir + "/run");
  }
  if (config.engine.program.empty()) {
    const std::filesystem::path own(sources.program_path);
    config.engine.program = (own.parent_path() / "modeld-engine").string();
  }
  if (config.cache.primary.empty()) {
    config.cache.primary =
        DefaultCachePath(ExpandHome(environment.Find("HF_HOME"), home).c_str(),
                         ExpandHome(environment.Find("XDG_CACHE_HOME"), home).c_str(), home);
  }
  if (config.devices.cpu_memory_bytes == 0)
    config.devices.cpu_memory_bytes = ProcessMemoryBytes() / 2;
  if (!config.database.password_file.empty()) {
    constexpr char kKey[] = "database.password_file";
    config.database_password = ReadSecret(
        kKey, SecretPath(kKey, config.database.password_file, environment, result), result);
  }
  FillHub(environment, result);
}

}  // namespace modeld
