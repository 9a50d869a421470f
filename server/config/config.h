// Everything that can be set: TOML file, then environment (MODELD_SECTION_KEY), then flags. Read
// once, const afterwards. Each default stands here and nowhere else.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/core/cache_location.h"
#include "server/core/request_limits.h"

namespace modeld {

struct Config {
  struct Server {
    std::string grpc_address = "127.0.0.1:50051";  // port 0: any free one
    std::string http_address = "127.0.0.1:8080";   // port 0: any free one
    int64_t http_threads = 256;
    int64_t drain_seconds = 20;  // how long running requests may take when the daemon stops
  };
  struct Node {
    std::string name;       // empty in the file: the host name
    std::string state_dir;  // empty in the file: $STATE_DIRECTORY, else /var/lib/modeld
  };
  struct Database {
    std::string url = "postgresql:///modeld";
    std::string password_file;  // file, or $CREDENTIALS_DIRECTORY/<name> for a name without '/'
    int64_t connections = 8;
  };
  struct Hub {
    std::string endpoint;    // empty in the file: $HF_ENDPOINT, else https://huggingface.co
    std::string token_file;  // as password_file; empty: $HF_TOKEN, else the credential hub_token
    std::string credentials_dir;       // empty in the file: $CREDENTIALS_DIRECTORY
    std::vector<std::string> mirrors;  // "URL" or "URL send-token"; taken apart in hub_mirrors
    bool offline = false;              // also by $HF_HUB_OFFLINE
    std::string proxy;                 // may have a password in it: never printed
    std::string ca_file;
  };
  struct Download {
    int64_t workers = 24;  // connections at most
    int64_t stall_seconds = 20;
    int64_t give_up_seconds = 600;
    int64_t bytes_per_second_max = 0;      // 0: no limit
    int64_t connections_max = 0;           // 0: no limit but workers
    int64_t connections_per_host_max = 0;  // 0: no limit
  };
  struct Engine {
    std::string program;     // empty in the file: modeld-engine beside modeld's own binary
    std::string socket_dir;  // empty in the file: $RUNTIME_DIRECTORY, else <state_dir>/run
    int64_t threads = 0;     // 0: one for each core that this process may use
    int64_t load_timeout_base_seconds = 300;    // plus ...
    int64_t load_timeout_seconds_per_gib = 20;  // ... so much for each GiB of weights
    int64_t requests_waiting_max = 512;         // per model, then QUEUE_FULL
    bool prefix_cache = true;                   // keep what was computed of prompts
  };
  struct Devices {
    int64_t cpu_memory_bytes = 0;      // 0 in the file: half of the memory this process may use
    std::vector<int64_t> cpu_budgets;  // bytes of "cpu:0", "cpu:1", ...; empty: one device "cpu"
  };
  struct Log {
    std::string level = "info";  // debug, info, warning, error
  };

  Server server;
  Node node;
  Database database;
  CacheRoots cache;  // cache.primary, cache.secondary, cache.custom_roots; primary resolved
  bool require_mount = false;  // cache.require_mount: refuse a cache path on the root filesystem
  Hub hub;
  Download download;
  Engine engine;
  RequestLimits limits;
  Devices devices;
  Log log;

  struct Mirror {
    std::string url;
    bool send_token = false;

    bool operator==(const Mirror&) const = default;
  };
  std::vector<Mirror> hub_mirrors;  // hub.mirrors
  std::string hub_token_path;       // where hub_token was read from; empty: from the environment

  // Secrets, read from the files above or the environment; never printed.
  std::string database_password;
  std::string hub_token;
};

// What the process was started with.
struct ConfigSources {
  std::string file;  // path; empty: the default path, which may be missing
  std::map<std::string, std::string> environment;
  std::map<std::string, std::string> flags;  // "server.grpc_address" -> value
  std::string program_path;                  // of modeld itself
};

// Every problem, each with its place: "modeld.toml:12: server.http_thread: unknown key, ...".
struct ConfigProblem {
  std::string where;  // "modeld.toml:12", "MODELD_SERVER_HTTP_THREADS", "--grpc-address"
  std::string what;
};

struct ConfigResult {
  Config config;
  std::vector<ConfigProblem> problems;  // config is usable only when empty
  std::vector<ConfigProblem> warnings;  // config is usable; for the log
};

// Reads everything and reports every problem, not only the first. A flag that is no key is a
// problem, and so is a MODELD_SECTION_* variable that is none (MODELD_ENGINE_* ones go to the
// engines and may be anything).
ConfigResult LoadConfig(const ConfigSources& sources);

// The default of ConfigSources::file.
inline constexpr char kDefaultConfigFile[] = "/etc/modeld/modeld.toml";

}  // namespace modeld
