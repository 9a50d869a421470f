#include "server/config/config_keys.h"

#include <limits>

#include "absl/strings/str_join.h"

namespace modeld {
namespace {

constexpr int64_t kMany = std::numeric_limits<int64_t>::max();

// A string with the characters that TOML wants escaped.
std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string Upper(std::string text) {
  for (char& c : text) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return text;
}

template <auto Member, auto Field>
ConfigTarget At(Config& config) {
  return &((config.*Member).*Field);
}

void AddServerKeys(std::vector<ConfigKey>& keys) {
  using Server = Config::Server;
  using Node = Config::Node;
  keys.push_back(
      {"server", "grpc_address", At<&Config::server, &Server::grpc_address>,
       "Address of the gRPC server. Port 0 takes any free one; the bound addresses stand in "
       "<state_dir>/endpoints.json. There is no authentication: bind other addresses only in a "
       "trusted network."});
  keys.push_back({"server", "http_address", At<&Config::server, &Server::http_address>,
                  "Address of the HTTP server: /metrics, /healthz, /readyz, REST, OpenAI API, web "
                  "page. Port 0 as above."});
  keys.push_back({"server", "http_threads", At<&Config::server, &Server::http_threads>,
                  "Threads of the HTTP server, one for each open request. At most that less 16 may "
                  "be streams.",
                  17, 4096});
  keys.push_back({"server", "drain_seconds", At<&Config::server, &Server::drain_seconds>,
                  "How long running requests may take when the daemon stops.", 0, 3600});
  keys.push_back({"node", "name", At<&Config::node, &Node::name>,
                  "Name of this machine in lists and metrics.", 0, 0, "the host name"});
  keys.push_back(
      {"node", "state_dir", At<&Config::node, &Node::state_dir>,
       "Folder for what the daemon keeps beside the database: node_id, endpoints.json. Absolute.",
       0, 0, "$STATE_DIRECTORY (systemd sets it), else /var/lib/modeld"});
}

void AddStorageKeys(std::vector<ConfigKey>& keys) {
  using Database = Config::Database;
  using Hub = Config::Hub;
  keys.push_back({"database", "url", At<&Config::database, &Database::url>,
                  "PostgreSQL as a libpq URI or key=value text, without the password."});
  keys.push_back({"database", "password_file", At<&Config::database, &Database::password_file>,
                  "File with the database password; a name without '/' is a file in "
                  "$CREDENTIALS_DIRECTORY (systemd "
                  "credentials).",
                  0, 0, "no password"});
  keys.push_back({"database", "connections", At<&Config::database, &Database::connections>,
                  "Connections to PostgreSQL at most.", 2, 200});
  keys.push_back({"cache", "primary", At<&Config::cache, &CacheRoots::primary>,
                  "Cache for models of cache_location \"primary\": the folder that has hub/ in it "
                  "(HF_HOME of Python "
                  "programs). Absolute.",
                  0, 0, "$HF_HOME, else $XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface"});
  keys.push_back({"cache", "secondary", At<&Config::cache, &CacheRoots::secondary>,
                  "Cache for models of cache_location \"secondary\". Absolute.", 0, 0,
                  "no such cache; requests that name it are refused"});
  keys.push_back({"cache", "custom_roots", At<&Config::cache, &CacheRoots::custom_roots>,
                  "Folders below which requests with cache_location \"custom\" may put models. "
                  "Absolute. In the environment "
                  "and in flags separated by ':'.",
                  0, 0, "every custom path is refused"});
  keys.push_back({"cache", "require_mount",
                  [](Config& config) -> ConfigTarget { return &config.require_mount; },
                  "Refuse a cache path on the root filesystem, so that a disk that is not mounted "
                  "is not mistaken for "
                  "an empty cache."});
  keys.push_back({"hub", "endpoint", At<&Config::hub, &Hub::endpoint>,
                  "URL of the Hugging Face Hub or of a mirror.", 0, 0,
                  "$HF_ENDPOINT, else https://huggingface.co"});
  keys.push_back({"hub", "token_file", At<&Config::hub, &Hub::token_file>,
                  "File with the access token for gated and private repositories; names as in "
                  "database.password_file. It is read anew for every request, and goes to "
                  "hub.endpoint only.",
                  0, 0,
                  "$HF_TOKEN, else the systemd credential hub_token if there is one, else no "
                  "token"});
  keys.push_back({"hub", "credentials_dir", At<&Config::hub, &Hub::credentials_dir>,
                  "Folder with the tokens of models that name one (token_credential), a file for "
                  "each name. Absolute.",
                  0, 0, "$CREDENTIALS_DIRECTORY (systemd sets it), else there are none"});
  keys.push_back(
      {.section = "hub",
       .key = "mirrors",
       .target = At<&Config::hub, &Hub::mirrors>,
       .help =
           "Servers with what the hub has, asked in this order while hub.endpoint is not "
           "available. \"URL\", or \"URL send-token\" for one that may have the tokens as well. "
           "In the environment and in flags separated by ','.",
       .separator = ','});
  keys.push_back({"hub", "offline", At<&Config::hub, &Hub::offline>,
                  "Ask no server at all: models are registered by their estimate and loaded from "
                  "the cache. $HF_HUB_OFFLINE=1 does the same."});
  keys.push_back({"hub", "proxy", At<&Config::hub, &Hub::proxy>,
                  "Proxy for everything that is fetched, as http://HOST:PORT, https:// or "
                  "socks5h://. Hosts in $NO_PROXY are reached without it.",
                  0, 0, "$HTTP_PROXY, $HTTPS_PROXY and $ALL_PROXY, else none"});
  keys.push_back({"hub", "ca_file", At<&Config::hub, &Hub::ca_file>,
                  "File with the certificates (PEM) of the authorities that are trusted, in place "
                  "of the system's.",
                  0, 0,
                  "$SSL_CERT_FILE, $REQUESTS_CA_BUNDLE or $CURL_CA_BUNDLE, else the system's"});
}

void AddWorkKeys(std::vector<ConfigKey>& keys) {
  using Download = Config::Download;
  using Engine = Config::Engine;
  keys.push_back({"download", "workers", At<&Config::download, &Download::workers>,
                  "Connections of all downloads together, at most.", 1, 256});
  keys.push_back({"download", "stall_seconds", At<&Config::download, &Download::stall_seconds>,
                  "A connection that brings nothing for so long is cut and tried again.", 1, 3600});
  keys.push_back({"download", "give_up_seconds", At<&Config::download, &Download::give_up_seconds>,
                  "A file that made no progress for so long, over all tries, fails.", 1, 86400});
  keys.push_back(
      {"download", "bytes_per_second_max", At<&Config::download, &Download::bytes_per_second_max>,
       "Bytes a second of all downloads together; 0 is no limit. SetDownloadLimits changes "
       "this and the next two until the daemon starts again.",
       0, kMany});
  keys.push_back({"download", "connections_max", At<&Config::download, &Download::connections_max>,
                  "Connections of all downloads together; 0 is no limit but download.workers.", 0,
                  256});
  keys.push_back({"download", "connections_per_host_max",
                  At<&Config::download, &Download::connections_per_host_max>,
                  "Connections of downloads to one host; 0 is no limit.", 0, 256});
  keys.push_back({"engine", "program", At<&Config::engine, &Engine::program>,
                  "Path of modeld-engine.", 0, 0, "modeld-engine beside modeld itself"});
  keys.push_back({"engine", "socket_dir", At<&Config::engine, &Engine::socket_dir>,
                  "Folder for the engines' sockets. Absolute, at most 70 bytes.", 0, 0,
                  "$RUNTIME_DIRECTORY (systemd sets it), else <state_dir>/run"});
  keys.push_back({"engine", "threads", At<&Config::engine, &Engine::threads>,
                  "CPU threads of each engine.", 0, 1024, "one for each core that modeld may use"});
  keys.push_back({"engine", "load_timeout_base_seconds",
                  At<&Config::engine, &Engine::load_timeout_base_seconds>,
                  "A load may take so long, plus the next key for each GiB of weights.", 1, 86400});
  keys.push_back({"engine", "load_timeout_seconds_per_gib",
                  At<&Config::engine, &Engine::load_timeout_seconds_per_gib>,
                  "Seconds that a load may take beyond the key above, for each GiB of weights.", 0,
                  3600});
  keys.push_back({"engine", "prefix_cache", At<&Config::engine, &Engine::prefix_cache>,
                  "Keep what was computed of prompts, as long as memory is free, for requests that "
                  "begin with the same tokens."});
  keys.push_back({"engine", "requests_waiting_max",
                  At<&Config::engine, &Engine::requests_waiting_max>,
                  "Requests that may wait for one model; further ones are refused with QUEUE_FULL.",
                  1, 1'000'000});
  keys.push_back(
      {"devices", "cpu_memory_bytes", At<&Config::devices, &Config::Devices::cpu_memory_bytes>,
       "Memory that models on the device \"cpu\" may use together.", 0, kMany,
       "half of the memory that this process may use (physical memory or its cgroup's limit)"});
  keys.push_back(
      {"devices", "cpu_budgets", At<&Config::devices, &Config::Devices::cpu_budgets>,
       "Bytes of the devices \"cpu:0\", \"cpu:1\", ..., two or more, that stand in the place of "
       "\"cpu\" then: a way to try device maps without GPUs. cpu_memory_bytes is of no matter "
       "then. In the environment and in flags separated by ':'.",
       1, kMany, "one device \"cpu\""});
  keys.push_back({"log",
                  "level",
                  At<&Config::log, &Config::Log::level>,
                  "Lines below this level are dropped.",
                  0,
                  0,
                  "",
                  {"debug", "info", "warning", "error"}});
}

void AddLimitKeys(std::vector<ConfigKey>& keys) {
  using Limits = RequestLimits;
  keys.push_back({"limits", "prompt_bytes_max", At<&Config::limits, &Limits::prompt_bytes_max>,
                  "Bytes of a text that is tokenized, and of a conversation.", 1, 64 << 20});
  keys.push_back({"limits", "choices_max", At<&Config::limits, &Limits::choices_max>,
                  "Choices that one request may have generated, or beams (n, best_of, num_beams).",
                  1, 1024});
  keys.push_back({"limits", "stop_max", At<&Config::limits, &Limits::stop_max>,
                  "Stop strings of a request, and again as many stop tokens.", 1, 1024});
  keys.push_back(
      {"limits", "stop_bytes_max", At<&Config::limits, &Limits::stop_bytes_max>,
       "Bytes of a stop string, a bad word, a breaker of DRY or a text of structure.choice.", 1,
       100'000});
  keys.push_back({"limits", "logprobs_max", At<&Config::limits, &Limits::logprobs_max>,
                  "Alternatives that a request may ask for with each token (logprobs, "
                  "prompt_logprobs).",
                  1, 1000});
  keys.push_back({"limits", "logit_bias_max", At<&Config::limits, &Limits::logit_bias_max>,
                  "Entries of logit_bias.", 1, 1'000'000});
  keys.push_back({"limits", "bad_words_max", At<&Config::limits, &Limits::bad_words_max>,
                  "Entries of bad_words.", 1, 100'000});
  keys.push_back({"limits", "dry_breakers_max", At<&Config::limits, &Limits::dry_breakers_max>,
                  "Entries of dry_sequence_breakers.", 1, 10'000});
  keys.push_back({"limits", "schema_bytes_max", At<&Config::limits, &Limits::schema_bytes_max>,
                  "Bytes of a JSON schema that an answer must satisfy.", 1, 16 << 20});
  keys.push_back({"limits", "regex_bytes_max", At<&Config::limits, &Limits::regex_bytes_max>,
                  "Bytes of a regular expression that an answer must match.", 1, 1 << 20});
  keys.push_back({"limits", "grammar_bytes_max", At<&Config::limits, &Limits::grammar_bytes_max>,
                  "Bytes of a grammar that an answer must follow.", 1, 1 << 20});
  keys.push_back({"limits", "structure_choices_max",
                  At<&Config::limits, &Limits::structure_choices_max>,
                  "Texts that an answer may be one of.", 1, 100'000});
  keys.push_back({"limits", "tools_max", At<&Config::limits, &Limits::tools_max>,
                  "Functions of a conversation.", 1, 10'000});
}

}  // namespace

ConfigType ConfigKey::type() const {
  Config config;
  return static_cast<ConfigType>(target(config).index());
}

std::string ConfigKey::default_text() const {
  Config config;
  const ConfigTarget value = target(config);
  if (const auto* text = std::get_if<std::string*>(&value)) return Quoted(**text);
  if (const auto* number = std::get_if<int64_t*>(&value)) return std::to_string(**number);
  if (const auto* boolean = std::get_if<bool*>(&value)) return **boolean ? "true" : "false";
  if (const auto* numbers = std::get_if<std::vector<int64_t>*>(&value)) {
    return "[" + absl::StrJoin(**numbers, ", ") + "]";
  }
  std::string list;
  for (const std::string& item : *std::get<std::vector<std::string>*>(value)) {
    list += (list.empty() ? "" : ", ") + Quoted(item);
  }
  return "[" + list + "]";
}

std::string ConfigKey::environment_name() const {
  return "MODELD_" + Upper(section) + "_" + Upper(key);
}

std::string ConfigKey::flag() const {
  std::string flag = "--" + section + "-" + key;
  for (char& c : flag) {
    if (c == '_') c = '-';
  }
  return flag;
}

std::vector<ConfigKey> AllConfigKeys() {
  std::vector<ConfigKey> keys;
  AddServerKeys(keys);
  AddStorageKeys(keys);
  AddWorkKeys(keys);
  AddLimitKeys(keys);
  return keys;
}

}  // namespace modeld
