#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "client/arguments.h"
#include "client/commands.h"
#include "client/device_map_file.h"
#include "client/table.h"
#include "server/base/status.h"
#include "server/core/bytes.h"
#include "server/core/device_map.h"
#include "server/wire/status_wire.h"

namespace modeld {
namespace {

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixSeconds(time.seconds()),
                          absl::LocalTimeZone());
}

std::string StateWord(const v1::Operation& operation) {
  return EnumWord(v1::OperationState_Name(operation.state()), "OPERATION_STATE_");
}

// Starts what `call` asks for and follows it, or only names it with --no-wait.
template <typename Request>
absl::Status Start(const Cli& cli, Client& client, const Request& request, bool no_wait,
                   grpc::Status (v1::Orchestrator::Stub::*method)(grpc::ClientContext*,
                                                                  const Request&, v1::Operation*)) {
  ASSIGN_OR_RETURN(const v1::Operation operation,
                   client.Call(method, client.orchestrator(), request));
  if (!no_wait) return FollowOperation(cli, client, operation);
  if (cli.json()) {
    PrintJson(operation);
  } else {
    std::printf("%s\n", operation.name().c_str());
  }
  return absl::OkStatus();
}

absl::Status Instances(const Cli& cli, const Client& client) {
  ASSIGN_OR_RETURN(const v1::ListInstancesResponse response,
                   client.Call(&v1::Orchestrator::Stub::ListInstances, client.orchestrator(),
                               v1::ListInstancesRequest()));
  if (cli.json()) {
    PrintJson(response);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Instance& instance : response.instances()) {
    std::vector<std::string> devices;
    for (const v1::InstanceDevice& device : instance.devices()) {
      devices.push_back(device.device() + " " + FormatBytes(device.resident_bytes()));
    }
    rows.push_back({instance.model_name(),
                    EnumWord(v1::InstanceState_Name(instance.state()), "INSTANCE_STATE_"),
                    instance.node(), std::to_string(instance.pid()), instance.dtype(),
                    absl::StrJoin(devices, ", "), std::to_string(instance.active_requests()),
                    std::to_string(instance.waiting_requests())});
  }
  std::fputs(
      FormatTable({"MODEL", "STATE", "NODE", "PID", "DTYPE", "MEMORY", "ACTIVE", "WAITING"}, rows)
          .c_str(),
      stdout);
  return absl::OkStatus();
}

absl::Status Devices(const Cli& cli, const Client& client) {
  ASSIGN_OR_RETURN(const v1::ListDevicesResponse response,
                   client.Call(&v1::Orchestrator::Stub::ListDevices, client.orchestrator(),
                               v1::ListDevicesRequest()));
  if (cli.json()) {
    PrintJson(response);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Device& device : response.devices()) {
    std::vector<std::string> models;
    const std::map<std::string, int64_t> sorted(device.model_bytes().begin(),
                                                device.model_bytes().end());
    for (const auto& [model, bytes] : sorted) models.push_back(model + " " + FormatBytes(bytes));
    rows.push_back({device.node(), device.name(), device.product(),
                    FormatBytes(device.total_bytes()), FormatBytes(device.used_bytes()),
                    FormatBytes(device.free_bytes()), absl::StrJoin(models, ", ")});
  }
  std::fputs(
      FormatTable({"NODE", "DEVICE", "PRODUCT", "TOTAL", "USED", "FREE", "MODELS"}, rows).c_str(),
      stdout);
  return absl::OkStatus();
}

absl::Status Nodes(const Cli& cli, const Client& client) {
  ASSIGN_OR_RETURN(const v1::ListNodesResponse response,
                   client.Call(&v1::Orchestrator::Stub::ListNodes, client.orchestrator(),
                               v1::ListNodesRequest()));
  if (cli.json()) {
    PrintJson(response);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Node& node : response.nodes()) {
    rows.push_back({node.node(), node.address(), TimeText(node.heartbeat_time()), node.node_id()});
  }
  std::fputs(FormatTable({"NODE", "ADDRESS", "HEARTBEAT", "ID"}, rows).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status Operations(const Cli& cli, const Client& client,
                        const v1::ListOperationsRequest& request) {
  ASSIGN_OR_RETURN(
      const v1::ListOperationsResponse response,
      client.Call(&v1::Orchestrator::Stub::ListOperations, client.orchestrator(), request));
  if (cli.json()) {
    PrintJson(response);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Operation& operation : response.operations()) {
    rows.push_back({operation.name(),
                    EnumWord(v1::OperationKind_Name(operation.kind()), "OPERATION_KIND_"),
                    operation.model_name(), StateWord(operation), TimeText(operation.create_time()),
                    operation.has_error() ? operation.error().message() : ""});
  }
  std::fputs(FormatTable({"OPERATION", "KIND", "MODEL", "STATE", "STARTED", "ERROR"}, rows).c_str(),
             stdout);
  return absl::OkStatus();
}

absl::Status ServerStatus(const Cli& cli, const Client& client) {
  v1::ListModelsRequest list;
  list.set_page_size(1000);
  ASSIGN_OR_RETURN(const v1::ListModelsResponse models,
                   client.Call(&v1::Registry::Stub::ListModels, client.registry(), list));
  std::map<std::string, int> by_state;
  for (const v1::Model& model : models.models()) {
    ++by_state[EnumWord(v1::ModelState_Name(model.state()), "MODEL_STATE_")];
  }
  if (cli.json()) {
    // One document; what each of these commands prints stands under its name.
    std::printf("{\"list\": ");
    PrintJson(models);
    std::printf(", \"ps\": ");
    RETURN_IF_ERROR(Instances(cli, client));
    std::printf(", \"devices\": ");
    RETURN_IF_ERROR(Devices(cli, client));
    std::printf("}\n");
    return absl::OkStatus();
  }
  std::vector<std::string> parts;
  for (const auto& [state, count] : by_state) {
    parts.push_back(std::to_string(count) + " " + state);
  }
  std::printf("%s: %d models%s%s\n\n", cli.server.c_str(), models.models_size(),
              parts.empty() ? "" : ": ", absl::StrJoin(parts, ", ").c_str());
  RETURN_IF_ERROR(Instances(cli, client));
  std::printf("\n");
  return Devices(cli, client);
}

void AddDownload(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("download", "Bring a model's files into its cache");
  auto request = std::make_shared<v1::DownloadModelRequest>();
  auto no_wait = std::make_shared<bool>(false);
  AddModelArgument(command, request);
  command->add_option_function<std::string>(
      "--revision", [request](const std::string& v) { request->set_revision(v); },
      "Branch, tag or commit (the model's)");
  command->add_option_function<int32_t>(
      "--priority", [request](int32_t v) { request->set_priority(v); }, "Higher goes first (0)");
  AddPatternOptions(command, request);
  AddRateOption(command, "--limit",
                [request](int64_t rate) { request->set_bytes_per_second_max(rate); });
  command->add_flag("--no-wait", *no_wait, "Print the operation's name and end");
  command->callback([&cli, request, no_wait] {
    cli.action = [&cli, request, no_wait](Client& client) {
      return Start(cli, client, *request, *no_wait, &v1::Orchestrator::Stub::DownloadModel);
    };
  });
}

void SetDeviceMap(const std::string& text, v1::LoadModelRequest& request) {
  if (text == "auto" || IsDevice(text)) {
    request.set_device_map(text);
    return;
  }
  const auto entries = ReadDeviceMapFile(text);
  if (!entries.ok()) {
    throw CLI::ValidationError("--device-map", std::string(entries.status().message()));
  }
  request.mutable_device_map_entries()->insert(entries->begin(), entries->end());
}

void AddLoad(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("load", "Bring a model into memory; downloads first");
  auto request = std::make_shared<v1::LoadModelRequest>();
  auto no_wait = std::make_shared<bool>(false);
  AddModelArgument(command, request);
  command->add_option_function<std::string>(
      "--revision", [request](const std::string& v) { request->set_revision(v); },
      "Branch, tag or commit (the model's)");
  command->add_option_function<std::string>(
      "--dtype", [request](const std::string& v) { request->set_dtype(v); },
      "bfloat16, float16 or float32 (bfloat16)");
  command->add_option_function<std::string>(
      "--device-map", [request](const std::string& v) { SetDeviceMap(v, *request); },
      "auto, a device (cpu, cuda:0), a kind of devices (cuda), or a file with a map of modules to "
      "devices as JSON (auto)");
  command->add_option_function<int64_t>(
      "--max-context", [request](int64_t v) { request->set_max_context(v); },
      "Tokens of prompt and answer together");
  command->add_flag_function(
      "--pin", [request](int64_t) { request->set_pin(true); }, "Never evict it for another model");
  command->add_flag("--no-wait", *no_wait, "Print the operation's name and end");
  command->callback([&cli, request, no_wait] {
    cli.action = [&cli, request, no_wait](Client& client) {
      return Start(cli, client, *request, *no_wait, &v1::Orchestrator::Stub::LoadModel);
    };
  });
}

void AddUnload(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("unload", "Take a model out of memory");
  auto request = std::make_shared<v1::UnloadModelRequest>();
  auto no_wait = std::make_shared<bool>(false);
  AddModelArgument(command, request);
  command->add_flag("--no-wait", *no_wait, "Print the operation's name and end");
  command->callback([&cli, request, no_wait] {
    cli.action = [&cli, request, no_wait](Client& client) {
      return Start(cli, client, *request, *no_wait, &v1::Orchestrator::Stub::UnloadModel);
    };
  });
}

// What came of a wish; an operation that runs obeys soon.
std::string WishText(const std::string& word, const v1::Operation& operation) {
  std::string becomes = StateWord(operation);
  if (operation.state() == v1::OPERATION_STATE_RUNNING) {
    becomes = word == "cancel"  ? "is being cancelled"
              : word == "pause" ? "is being paused"
                                : "runs";
  } else if (operation.state() == v1::OPERATION_STATE_PENDING) {
    becomes = "goes on";
  }
  return operation.name() + " of " + operation.model_name() + ": " + becomes;
}

// cancel, pause and resume: one operation by name, its new state as the answer.
template <typename Request>
void AddWish(CLI::App& app, Cli& cli, const std::string& word, const std::string& help,
             grpc::Status (v1::Orchestrator::Stub::*method)(grpc::ClientContext*, const Request&,
                                                            v1::Operation*)) {
  auto* command = app.add_subcommand(word, help);
  auto name = std::make_shared<std::string>();
  command->add_option("OPERATION", *name, "Name of the operation")->required();
  command->callback([&cli, name, word, method] {
    cli.action = [&cli, name, word, method](Client& client) -> absl::Status {
      Request request;
      request.set_name(*name);
      ASSIGN_OR_RETURN(const v1::Operation operation,
                       client.Call(method, client.orchestrator(), request));
      if (cli.json()) {
        PrintJson(operation);
      } else {
        std::printf("%s\n", WishText(word, operation).c_str());
      }
      return absl::OkStatus();
    };
  });
}

void AddOperations(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("ops", "List operations, newest first");
  auto request = std::make_shared<v1::ListOperationsRequest>();
  command->add_option_function<std::string>(
      "MODEL", [request](const std::string& v) { request->set_model_name(v); },
      "Only of this model");
  command->add_option_function<int32_t>(
      "--limit", [request](int32_t v) { request->set_page_size(v); }, "At most this many (50)");
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) { return Operations(cli, client, *request); };
  });
  auto* watch = app.add_subcommand("watch", "Follow an operation to its end");
  auto name = std::make_shared<std::string>();
  watch->add_option("OPERATION", *name, "Name of the operation")->required();
  watch->callback([&cli, name] {
    cli.action = [&cli, name](Client& client) -> absl::Status {
      v1::Operation operation;
      operation.set_name(*name);
      return FollowOperation(cli, client, operation);
    };
  });
}

}  // namespace

absl::Status FollowOperation(const Cli& cli, const Client& client, const v1::Operation& operation) {
  absl::StatusOr<v1::Operation> last = operation;
  if (cli.json()) {
    last = client.Watch(operation.name(), [](const v1::Operation& now) { PrintJson(now, true); });
  } else {
    ProgressPrinter progress;
    last = client.Watch(operation.name(), [&](const v1::Operation& now) { progress.Show(now); });
  }
  RETURN_IF_ERROR(last.status());
  if (last->state() == v1::OPERATION_STATE_SUCCEEDED) return absl::OkStatus();
  if (last->has_error()) return FromRpcStatus(last->error());
  return absl::CancelledError("operation " + last->name() + " was cancelled");
}

void AddOrchestratorCommands(CLI::App& app, Cli& cli) {
  AddDownload(app, cli);
  AddLoad(app, cli);
  AddUnload(app, cli);
  app.add_subcommand("ps", "List what is loaded")->callback([&cli] {
    cli.action = [&cli](Client& client) { return Instances(cli, client); };
  });
  app.add_subcommand("devices", "List devices and their memory")->callback([&cli] {
    cli.action = [&cli](Client& client) { return Devices(cli, client); };
  });
  app.add_subcommand("nodes", "List the daemons")->callback([&cli] {
    cli.action = [&cli](Client& client) { return Nodes(cli, client); };
  });
  AddOperations(app, cli);
  AddWish(app, cli, "cancel", "End an operation", &v1::Orchestrator::Stub::CancelOperation);
  AddWish(app, cli, "pause", "Stop a download for now", &v1::Orchestrator::Stub::PauseOperation);
  AddWish(app, cli, "resume", "Go on with a paused download",
          &v1::Orchestrator::Stub::ResumeOperation);
  app.add_subcommand("status", "Show the server at a glance")->callback([&cli] {
    cli.action = [&cli](Client& client) { return ServerStatus(cli, client); };
  });
}

}  // namespace modeld
