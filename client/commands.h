// The subcommands of modelctl, in three groups.
#pragma once

#include <google/protobuf/message.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "client/client.h"

namespace CLI {
class App;
}

namespace modeld {

// What the subcommands share. The chosen one puts its work into `action`, which runs after the
// whole command line was read.
struct Cli {
  std::string server = "127.0.0.1:50051";
  std::string output = "table";  // or "json"
  std::function<absl::Status(Client&)> action;

  bool json() const { return output == "json"; }
};

// register, list, show, update, delete, caches, space.
void AddRegistryCommands(CLI::App& app, Cli& cli);
// scan, adopt, verify, delete-revision, prune.
void AddCacheCommands(CLI::App& app, Cli& cli);
// download, load, unload, ps, devices, nodes, ops, watch, cancel, pause, resume, status.
void AddOrchestratorCommands(CLI::App& app, Cli& cli);
// plan, limits.
void AddLimitCommands(CLI::App& app, Cli& cli);
// run, generate, tokenize, embed.
void AddInferenceCommands(CLI::App& app, Cli& cli);

// Prints a model as a table or as JSON.
absl::Status ShowModel(const Cli& cli, const v1::Model& model);

// Prints a message as JSON with the proto's own field names; on one line for `compact`.
void PrintJson(const google::protobuf::Message& message, bool compact = false);

// Follows an operation with progress on stderr (or JSON lines on stdout); an error when it did not
// succeed.
absl::Status FollowOperation(const Cli& cli, const Client& client, const v1::Operation& operation);

}  // namespace modeld
