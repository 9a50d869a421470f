#include "server/config/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>

#include "server/base/file.h"
#include "server/config/config_keys.h"
#include "server/config/derived.h"

namespace modeld {
namespace {

constexpr size_t kSocketDirBytesMax =
    70;  // sun_path has 107, the name of a socket is '/' and a UUID

std::string At(const std::string& file, const toml::source_region& region) {
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(region.begin.line);
}

std::string TypeName(ConfigType type) {
  switch (type) {
    case ConfigType::kString:
      return "a string";
    case ConfigType::kInteger:
      return "an integer";
    case ConfigType::kBoolean:
      return "true or false";
    case ConfigType::kStringList:
      return "a list of strings";
    case ConfigType::kIntegerList:
      return "a list of integers";
  }
  return "";
}

std::optional<std::vector<std::string>> ListOf(const toml::node& node) {
  const toml::array* array = node.as_array();
  if (array == nullptr) return std::nullopt;
  std::vector<std::string> list;
  for (const toml::node& item : *array) {
    if (!item.is_string()) return std::nullopt;
    list.push_back(item.as_string()->get());
  }
  return list;
}

std::optional<std::vector<int64_t>> NumbersOf(const toml::node& node) {
  const toml::array* array = node.as_array();
  if (array == nullptr) return std::nullopt;
  std::vector<int64_t> list;
  for (const toml::node& item : *array) {
    if (!item.is_integer()) return std::nullopt;
    list.push_back(item.as_integer()->get());
  }
  return list;
}

std::optional<int64_t> NumberOf(const std::string& text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  return parsed.ec == std::errc() && parsed.ptr == end ? std::optional(value) : std::nullopt;
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) {
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

// Sets values and remembers where each came from.
class Reader {
 public:
  Reader() {
    for (ConfigKey& key : AllConfigKeys()) {
      std::string name = key.name();
      keys_.emplace(std::move(name), std::move(key));
    }
  }

  void ReadFileAt(const std::string& path, bool must_exist);
  void ReadEnvironment(const std::map<std::string, std::string>& environment);
  void ReadFlags(const std::map<std::string, std::string>& flags);
  // Rules that need the final values.
  void Validate();
  ConfigResult& result() { return result_; }

 private:
  void ReadTable(const std::string& file, const toml::table& table);
  void SetNode(const ConfigKey& key, const std::string& where, const toml::node& node);
  void SetText(const ConfigKey& key, const std::string& where, const std::string& text);
  template <typename T>
  void Set(const ConfigKey& key, const std::string& where, T value);
  void Problem(const std::string& where, const std::string& what) {
    result_.problems.push_back({where, what});
  }
  std::string Where(const std::string& name) const {
    const auto found = origin_.find(name);
    return found == origin_.end() ? name : found->second;
  }
  bool IsSection(std::string_view section) const {
    return std::ranges::any_of(keys_,
                               [&](const auto& key) { return key.second.section == section; });
  }
  void ValidateAddress(const std::string& name, const std::string& value);
  void ValidateAbsolute(const std::string& name, const std::string& value);
  void ValidateHub();

  std::map<std::string, ConfigKey> keys_;
  std::map<std::string, std::string> origin_;
  ConfigResult result_;
};

void Reader::ReadFileAt(const std::string& path, bool must_exist) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (absl::IsNotFound(text.status()) && !must_exist) return;
  if (!text.ok()) return Problem(path, std::string(text.status().message()));
  try {
    ReadTable(path, toml::parse(*text, path));
  } catch (const toml::parse_error& error) {
    Problem(At(path, error.source()), std::string(error.description()));
  }
}

void Reader::ReadTable(const std::string& file, const toml::table& table) {
  for (const auto& [section_key, section] : table) {
    const std::string section_name(section_key.str());
    const std::string where = At(file, section_key.source());
    if (!IsSection(section_name)) {
      Problem(where, "[" + section_name + "]: unknown section");
      continue;
    }
    if (!section.is_table()) {
      Problem(where, section_name + ": is a section, write [" + section_name + "]");
      continue;
    }
    for (const auto& [key, node] : *section.as_table()) {
      const std::string name = section_name + "." + std::string(key.str());
      const auto found = keys_.find(name);
      if (found == keys_.end()) {
        Problem(At(file, key.source()), name + ": unknown key");
      } else {
        SetNode(found->second, At(file, key.source()), node);
      }
    }
  }
}

void Reader::SetNode(const ConfigKey& key, const std::string& where, const toml::node& node) {
  const ConfigType type = key.type();
  if (type == ConfigType::kString && node.is_string()) {
    Set(key, where, node.as_string()->get());
  } else if (type == ConfigType::kInteger && node.is_integer()) {
    Set(key, where, node.as_integer()->get());
  } else if (type == ConfigType::kBoolean && node.is_boolean()) {
    Set(key, where, node.as_boolean()->get());
  } else if (auto list = ListOf(node); type == ConfigType::kStringList && list) {
    Set(key, where, *std::move(list));
  } else if (auto numbers = NumbersOf(node); type == ConfigType::kIntegerList && numbers) {
    Set(key, where, *std::move(numbers));
  } else {
    Problem(where, key.name() + ": must be " + TypeName(type));
  }
}

void Reader::SetText(const ConfigKey& key, const std::string& where, const std::string& text) {
  switch (key.type()) {
    case ConfigType::kString:
      return Set(key, where, text);
    case ConfigType::kStringList:
      return Set(key, where, Split(text, key.separator));
    case ConfigType::kBoolean:
      if (text != "true" && text != "false") break;
      return Set(key, where, text == "true");
    case ConfigType::kInteger: {
      const std::optional<int64_t> value = NumberOf(text);
      if (!value) break;
      return Set(key, where, *value);
    }
    case ConfigType::kIntegerList: {
      std::vector<int64_t> values;
      const std::vector<std::string> parts = Split(text, key.separator);
      for (const std::string& part : parts) {
        if (const std::optional<int64_t> value = NumberOf(part)) values.push_back(*value);
      }
      if (values.size() != parts.size()) break;
      return Set(key, where, std::move(values));
    }
  }
  Problem(where, key.name() + ": must be " + TypeName(key.type()));
}

template <typename T>
void Reader::Set(const ConfigKey& key, const std::string& where, T value) {
  const auto is_outside = [&](int64_t number) {
    if (number >= key.min && number <= key.max) return false;
    Problem(where, key.name() + ": is " + std::to_string(number) + ", must be " +
                       std::to_string(key.min) + " to " + std::to_string(key.max));
    return true;
  };
  if constexpr (std::is_same_v<T, int64_t>) {
    if (is_outside(value)) return;
  }
  if constexpr (std::is_same_v<T, std::vector<int64_t>>) {
    if (std::ranges::any_of(value, is_outside)) return;
  }
  if constexpr (std::is_same_v<T, std::string>) {
    if (!key.choices.empty() && std::ranges::find(key.choices, value) == key.choices.end()) {
      std::string choices;
      for (const std::string& choice : key.choices)
        choices += (choices.empty() ? "" : ", ") + choice;
      return Problem(where, key.name() + ": is \"" + value + "\", must be one of " + choices);
    }
  }
  *std::get<T*>(key.target(result_.config)) = std::move(value);
  origin_[key.name()] = where;
}

void Reader::ReadEnvironment(const std::map<std::string, std::string>& environment) {
  std::set<std::string> known;
  for (const auto& [name, key] : keys_) {
    const std::string variable = key.environment_name();
    known.insert(variable);
    const auto found = environment.find(variable);
    if (found != environment.end()) SetText(key, variable, found->second);
  }
  for (const auto& [variable, value] : environment) {
    if (!variable.starts_with("MODELD_") || variable.starts_with("MODELD_ENGINE_")) continue;
    if (known.contains(variable)) continue;
    const size_t end = variable.find('_', 7);
    if (end == std::string::npos) continue;
    std::string section = variable.substr(7, end - 7);
    std::ranges::transform(section, section.begin(),
                           [](unsigned char c) { return std::tolower(c); });
    if (IsSection(section)) Problem(variable, "unknown key of [" + section + "]");
  }
}

void Reader::ReadFlags(const std::map<std::string, std::string>& flags) {
  for (const auto& [name, value] : flags) {
    const auto found = keys_.find(name);
    if (found == keys_.end()) {
      Problem("--" + name, "unknown key");
    } else {
      SetText(found->second, found->second.flag(), value);
    }
  }
}

void Reader::ValidateAddress(const std::string& name, const std::string& value) {
  const size_t colon = value.rfind(':');
  int port = -1;
  if (colon != std::string::npos && colon > 0) {
    const char* end = value.data() + value.size();
    const auto parsed = std::from_chars(value.data() + colon + 1, end, port);
    if (parsed.ec != std::errc() || parsed.ptr != end) port = -1;
  }
  if (port < 0 || port > 65535) {
    Problem(Where(name), name + ": \"" + value + "\" is not HOST:PORT with a port of 0 to 65535");
  }
}

void Reader::ValidateAbsolute(const std::string& name, const std::string& value) {
  if (!value.starts_with('/')) {
    Problem(Where(name), name + ": \"" + value + "\" is not an absolute path");
  } else if ((value + "/").find("/../") != std::string::npos ||
             (value + "/").find("/./") != std::string::npos) {
    Problem(Where(name), name + ": \"" + value + "\" has \".\" or \"..\" in it");
  }
}

void Reader::Validate() {
  const Config& config = result_.config;
  ValidateAddress("server.grpc_address", config.server.grpc_address);
  ValidateAddress("server.http_address", config.server.http_address);
  ValidateAbsolute("node.state_dir", config.node.state_dir);
  ValidateAbsolute("cache.primary", config.cache.primary);
  if (!config.cache.secondary.empty()) ValidateAbsolute("cache.secondary", config.cache.secondary);
  for (const std::string& root : config.cache.custom_roots)
    ValidateAbsolute("cache.custom_roots", root);
  ValidateAbsolute("engine.socket_dir", config.engine.socket_dir);
  if (config.engine.socket_dir.size() > kSocketDirBytesMax) {
    Problem(Where("engine.socket_dir"),
            "engine.socket_dir: \"" + config.engine.socket_dir + "\" has " +
                std::to_string(config.engine.socket_dir.size()) + " bytes, at most " +
                std::to_string(kSocketDirBytesMax) + " leave room for a socket's name");
  }
  ValidateHub();
}

void Reader::ValidateHub() {
  const Config& config = result_.config;
  const auto is_url = [](const std::string& text) {
    return text.starts_with("http://") || text.starts_with("https://");
  };
  if (!is_url(config.hub.endpoint)) {
    Problem(Where("hub.endpoint"),
            "hub.endpoint: \"" + config.hub.endpoint + "\" is no http:// or https:// URL");
  }
  for (const Config::Mirror& mirror : config.hub_mirrors) {
    if (is_url(mirror.url)) continue;
    Problem(Where("hub.mirrors"),
            "hub.mirrors: \"" + mirror.url + "\" is no http:// or https:// URL");
  }
  if (!config.hub.credentials_dir.empty()) {
    ValidateAbsolute("hub.credentials_dir", config.hub.credentials_dir);
  }
  static constexpr std::string_view kProxies[] = {"http://",    "https://",  "socks4://",
                                                  "socks4a://", "socks5://", "socks5h://"};
  const std::string& proxy = config.hub.proxy;
  if (!proxy.empty() && std::ranges::none_of(kProxies, [&](std::string_view scheme) {
        return proxy.starts_with(scheme) && proxy.size() > scheme.size();
      })) {
    // Not its text, which may have a password in it.
    Problem(Where("hub.proxy"), "hub.proxy: is no URL of a proxy, such as http://HOST:PORT");
  }
  if (!config.hub.ca_file.empty()) {
    if (const auto text = ReadFile(config.hub.ca_file); !text.ok()) {
      Problem(Where("hub.ca_file"), "hub.ca_file: " + std::string(text.status().message()));
    }
  }
}

}  // namespace

ConfigResult LoadConfig(const ConfigSources& sources) {
  Reader reader;
  const bool named = !sources.file.empty();
  reader.ReadFileAt(named ? sources.file : kDefaultConfigFile, named);
  reader.ReadEnvironment(sources.environment);
  reader.ReadFlags(sources.flags);
  FillDerived(sources, reader.result());
  reader.Validate();
  return std::move(reader.result());
}

}  // namespace modeld
