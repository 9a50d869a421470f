#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/arguments.h"
#include "client/commands.h"
#include "client/table.h"
#include "server/base/status.h"
#include "server/core/bytes.h"

namespace modeld {
namespace {

std::string RateText(int64_t bytes_per_second) {
  return bytes_per_second == 0 ? "no limit" : FormatBytes(bytes_per_second) + "/s";
}

std::string CountText(int32_t connections) {
  return connections == 0 ? "no limit" : std::to_string(connections);
}

void PrintLimits(const Cli& cli, const v1::DownloadLimits& limits) {
  if (cli.json()) {
    PrintJson(limits);
    return;
  }
  std::vector<std::vector<std::string>> rows = {{"rate", RateText(limits.bytes_per_second())}};
  if (limits.name().empty()) {
    rows.push_back({"connections", CountText(limits.connections())});
    rows.push_back({"connections to one host", CountText(limits.connections_per_host())});
  }
  std::fputs(FormatTable({"LIMIT", "VALUE"}, rows).c_str(), stdout);
}

// Asks for the limits, or changes those that the request has.
absl::Status Limits(const Cli& cli, const Client& client,
                    const v1::SetDownloadLimitsRequest& request) {
  const bool change = request.has_bytes_per_second() || request.has_connections() ||
                      request.has_connections_per_host();
  if (change) {
    ASSIGN_OR_RETURN(
        const v1::DownloadLimits limits,
        client.Call(&v1::Orchestrator::Stub::SetDownloadLimits, client.orchestrator(), request));
    PrintLimits(cli, limits);
    return absl::OkStatus();
  }
  v1::GetDownloadLimitsRequest get;
  get.set_name(request.name());
  ASSIGN_OR_RETURN(
      const v1::DownloadLimits limits,
      client.Call(&v1::Orchestrator::Stub::GetDownloadLimits, client.orchestrator(), get));
  PrintLimits(cli, limits);
  return absl::OkStatus();
}

std::string FileWord(const v1::FileProgress& file) {
  if (file.state() == v1::FILE_STATE_PRESENT) return "present";
  if (file.bytes_done() > 0) return FormatBytes(file.bytes_done()) + " present";
  return "fetch";
}

// What a load would take of a device, by dtype.
void PrintMemory(const v1::Preflight& preflight) {
  for (const auto& [dtype, bytes] :
       std::map(preflight.weights_bytes().begin(), preflight.weights_bytes().end())) {
    const auto of_token = preflight.kv_cache_bytes_per_token().find(dtype);
    const int64_t context_bytes = of_token == preflight.kv_cache_bytes_per_token().end()
                                      ? 0
                                      : of_token->second * preflight.max_context();
    std::printf("memory   %s: %s, and %s for %lld tokens of context\n", dtype.c_str(),
                FormatBytes(bytes + preflight.workspace_bytes()).c_str(),
                FormatBytes(context_bytes + preflight.state_bytes_per_sequence()).c_str(),
                static_cast<long long>(preflight.max_context()));
  }
}

absl::Status Plan(const Cli& cli, const Client& client, const v1::PlanDownloadRequest& request) {
  ASSIGN_OR_RETURN(
      const v1::PlanDownloadResponse plan,
      client.Call(&v1::Orchestrator::Stub::PlanDownload, client.orchestrator(), request));
  if (cli.json()) {
    PrintJson(plan);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::FileProgress& file : plan.files()) {
    rows.push_back({file.path(), FormatBytes(file.size_bytes()), FileWord(file)});
  }
  for (const v1::LeftOutFile& file : plan.left_out()) {
    rows.push_back({file.path(), FormatBytes(file.size_bytes()), "left out: " + file.why()});
  }
  std::fputs(FormatTable({"FILE", "SIZE", "STATE"}, rows).c_str(), stdout);
  std::printf("\ncommit   %s\nfetch    %s\npresent  %s\n", plan.commit().c_str(),
              FormatBytes(plan.fetch_bytes()).c_str(), FormatBytes(plan.present_bytes()).c_str());
  if (plan.free_after_bytes() < 0) {
    std::printf("free     too little by %s\n", FormatBytes(-plan.free_after_bytes()).c_str());
  } else {
    std::printf("free     %s afterwards\n", FormatBytes(plan.free_after_bytes()).c_str());
  }
  if (plan.has_preflight()) {
    std::printf("load     %s\n", plan.preflight().supported()
                                     ? "supported"
                                     : plan.preflight().unsupported_message().c_str());
    PrintMemory(plan.preflight());
  }
  return absl::OkStatus();
}

void AddPlan(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("plan", "Say what a download would fetch; changes nothing");
  auto request = std::make_shared<v1::PlanDownloadRequest>();
  AddModelArgument(command, request);
  command->add_option_function<std::string>(
      "--revision", [request](const std::string& v) { request->set_revision(v); },
      "Branch, tag or commit (the model's)");
  AddPatternOptions(command, request);
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) { return Plan(cli, client, *request); };
  });
}

}  // namespace

void AddLimitCommands(CLI::App& app, Cli& cli) {
  AddPlan(app, cli);
  auto* command =
      app.add_subcommand("limits", "Show or change how much downloads may take, while they run");
  auto request = std::make_shared<v1::SetDownloadLimitsRequest>();
  command->add_option_function<std::string>(
      "OPERATION", [request](const std::string& name) { request->set_name(name); },
      "Of this operation alone (the daemon's own, until it starts again)");
  AddRateOption(command, "--set,--limit",
                [request](int64_t rate) { request->set_bytes_per_second(rate); });
  command
      ->add_option_function<int32_t>(
          "--connections", [request](int32_t v) { request->set_connections(v); },
          "Connections of all downloads together; 0: no limit")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option_function<int32_t>(
          "--connections-per-host", [request](int32_t v) { request->set_connections_per_host(v); },
          "Connections to one host; 0: no limit")
      ->check(CLI::NonNegativeNumber);
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) { return Limits(cli, client, *request); };
  });
}

}  // namespace modeld
