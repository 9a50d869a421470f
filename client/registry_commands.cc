#include <google/protobuf/util/json_util.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <vector>

#include "client/arguments.h"
#include "client/commands.h"
#include "client/table.h"
#include "server/base/status.h"
#include "server/core/bytes.h"

namespace modeld {
namespace {

std::string StateWord(const v1::Model& model) {
  return EnumWord(v1::ModelState_Name(model.state()), "MODEL_STATE_");
}

std::string SizeOf(const v1::Model& model) {
  if (model.size_bytes() > 0) return FormatBytes(model.size_bytes());
  if (model.estimated_size_bytes() > 0) return "~" + FormatBytes(model.estimated_size_bytes());
  return "-";
}

void PrintModel(const v1::Model& model) {
  std::vector<std::vector<std::string>> rows = {
      {"hf_path", model.hf_path()},
      {"revision", model.revision()},
      {"commit", model.commit().empty() ? "-" : model.commit()},
      {"state", StateWord(model)},
      {"size", SizeOf(model)},
      {"cache", model.cache_location() + " " + model.cache_path()},
      {"snapshot", model.snapshot_path().empty() ? "-" : model.snapshot_path()},
      {"trust_remote_code", model.trust_remote_code() ? "true" : "false"}};
  if (!model.token_credential().empty()) {
    rows.push_back({"token_credential", model.token_credential()});
  }
  if (model.has_preflight()) {
    const v1::Preflight& preflight = model.preflight();
    rows.push_back({"architecture", preflight.architecture()});
    rows.push_back({"supported", preflight.supported() ? "yes" : preflight.unsupported_message()});
    if (preflight.parameter_count() > 0) {
      rows.push_back({"parameters", std::to_string(preflight.parameter_count())});
    }
  }
  if (model.has_error()) rows.push_back({"error", model.error().message()});
  std::fputs(FormatTable({"model_name", model.model_name()}, rows).c_str(), stdout);
}

absl::Status Register(const Cli& cli, const Client& client,
                      const v1::RegisterModelRequest& request) {
  ASSIGN_OR_RETURN(const v1::RegisterModelResponse response,
                   client.Call(&v1::Registry::Stub::RegisterModel, client.registry(), request));
  if (cli.json()) {
    PrintJson(response);
    return absl::OkStatus();
  }
  PrintModel(response.model());
  const char* mark = response.space_check().warning() ? "warning: " : "";
  std::printf("space: %s%s\n", mark, response.space_check().message().c_str());
  return absl::OkStatus();
}

absl::Status List(const Cli& cli, const Client& client) {
  std::vector<std::vector<std::string>> rows;
  v1::ListModelsResponse all;
  v1::ListModelsRequest request;
  request.set_page_size(1000);
  do {
    ASSIGN_OR_RETURN(const v1::ListModelsResponse page,
                     client.Call(&v1::Registry::Stub::ListModels, client.registry(), request));
    all.mutable_models()->MergeFrom(page.models());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (cli.json()) {
    PrintJson(all);
    return absl::OkStatus();
  }
  for (const v1::Model& model : all.models()) {
    rows.push_back({model.model_name(), model.hf_path(), model.revision(), StateWord(model),
                    SizeOf(model), model.cache_location()});
  }
  std::fputs(
      FormatTable({"MODEL", "REPOSITORY", "REVISION", "STATE", "SIZE", "CACHE"}, rows).c_str(),
      stdout);
  return absl::OkStatus();
}

absl::Status Caches(const Cli& cli, const Client& client) {
  ASSIGN_OR_RETURN(
      const v1::ListCachesResponse response,
      client.Call(&v1::Registry::Stub::ListCaches, client.registry(), v1::ListCachesRequest()));
  if (cli.json()) {
    PrintJson(response);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Cache& cache : response.caches()) {
    rows.push_back({cache.name(), cache.path(), cache.filesystem(),
                    FormatBytes(cache.total_bytes()), FormatBytes(cache.free_bytes()),
                    FormatBytes(cache.used_bytes()), std::to_string(cache.repository_count())});
  }
  std::fputs(
      FormatTable({"CACHE", "PATH", "FILESYSTEM", "SIZE", "FREE", "USED", "REPOSITORIES"}, rows)
          .c_str(),
      stdout);
  return absl::OkStatus();
}

absl::Status Space(const Cli& cli, const Client& client, const v1::CheckSpaceRequest& request) {
  ASSIGN_OR_RETURN(const v1::SpaceCheck check,
                   client.Call(&v1::Registry::Stub::CheckSpace, client.registry(), request));
  if (cli.json()) {
    PrintJson(check);
  } else {
    std::printf("%s%s\n", check.warning() ? "warning: " : "", check.message().c_str());
  }
  return absl::OkStatus();
}

void AddRegister(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("register", "Make a row for a repository of the Hub");
  auto request = std::make_shared<v1::RegisterModelRequest>();
  AddModelArgument(command, request);
  command
      ->add_option_function<std::string>(
          "HF_PATH", [request](const std::string& v) { request->set_hf_path(v); },
          "Repository id, such as Qwen/Qwen2.5-0.5B-Instruct")
      ->required();
  command->add_option_function<std::string>(
      "--revision", [request](const std::string& v) { request->set_revision(v); },
      "Branch, tag or commit (main)");
  AddPlaceOptions(command, request);
  command->add_option_function<int64_t>(
      "--estimated-size-mb", [request](int64_t v) { request->set_estimated_size_mb(v); },
      "Size in MB, used when the Hub is not reached");
  command->add_flag_function(
      "--trust-remote-code", [request](int64_t) { request->set_trust_remote_code(true); },
      "Let code of the repository run");
  AddPatternOptions(command, request);
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) { return Register(cli, client, *request); };
  });
}

void AddUpdate(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("update", "Change fields of a model");
  auto request = std::make_shared<v1::UpdateModelRequest>();
  const auto field = [command, request](const std::string& flag, const std::string& path,
                                        void (*set)(v1::Model&, const std::string&),
                                        const std::string& help) {
    command->add_option_function<std::string>(
        flag,
        [request, path, set](const std::string& value) {
          set(*request->mutable_model(), value);
          request->mutable_update_mask()->add_paths(path);
        },
        help);
  };
  command
      ->add_option_function<std::string>(
          "MODEL", [request](const std::string& v) { request->mutable_model()->set_model_name(v); },
          "Name of the model")
      ->required();
  field(
      "--revision", "revision", [](v1::Model& m, const std::string& v) { m.set_revision(v); },
      "Branch, tag or commit");
  field(
      "--hf-path", "hf_path", [](v1::Model& m, const std::string& v) { m.set_hf_path(v); },
      "Repository id; only while there is no copy");
  field(
      "--location", "cache_location",
      [](v1::Model& m, const std::string& v) { m.set_cache_location(v); },
      "primary, secondary or custom; only while there is no copy");
  field(
      "--cache-path", "cache_path", [](v1::Model& m, const std::string& v) { m.set_cache_path(v); },
      "Path for the location custom");
  field(
      "--token-credential", "token_credential",
      [](v1::Model& m, const std::string& v) { m.set_token_credential(v); },
      "Name of the daemon's credential with the token for this repository; \"\": none");
  field(
      "--trust-remote-code", "trust_remote_code",
      [](v1::Model& m, const std::string& v) { m.set_trust_remote_code(v == "true"); },
      "true or false");
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) -> absl::Status {
      ASSIGN_OR_RETURN(const v1::Model model,
                       client.Call(&v1::Registry::Stub::UpdateModel, client.registry(), *request));
      return ShowModel(cli, model);
    };
  });
}

void AddDelete(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("delete", "Remove a model's row");
  auto request = std::make_shared<v1::DeleteModelRequest>();
  AddModelArgument(command, request);
  command->add_flag_function(
      "--files", [request](int64_t) { request->set_delete_files(true); }, "Remove its files too");
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) -> absl::Status {
      ASSIGN_OR_RETURN(const v1::DeleteModelResponse response,
                       client.Call(&v1::Registry::Stub::DeleteModel, client.registry(), *request));
      if (cli.json()) {
        PrintJson(response);
      } else {
        std::printf("deleted %s, %s freed\n", request->model_name().c_str(),
                    FormatBytes(response.freed_bytes()).c_str());
      }
      return absl::OkStatus();
    };
  });
}

void AddSpace(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("space", "Tell whether something would fit");
  auto request = std::make_shared<v1::CheckSpaceRequest>();
  command->add_option_function<std::string>(
      "HF_PATH", [request](const std::string& v) { request->set_hf_path(v); }, "Repository id");
  command->add_option_function<std::string>(
      "--revision", [request](const std::string& v) { request->set_revision(v); },
      "Branch, tag or commit (main)");
  AddPlaceOptions(command, request);
  command->add_option_function<int64_t>(
      "--estimated-size-mb", [request](int64_t v) { request->set_estimated_size_mb(v); },
      "Size in MB");
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) { return Space(cli, client, *request); };
  });
}

}  // namespace

absl::Status ShowModel(const Cli& cli, const v1::Model& model) {
  if (cli.json()) {
    PrintJson(model);
  } else {
    PrintModel(model);
  }
  return absl::OkStatus();
}

void PrintJson(const google::protobuf::Message& message, bool compact) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = !compact;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) {
    text = "{\"error\": \"a string that is not UTF-8\"}";
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

void AddRegistryCommands(CLI::App& app, Cli& cli) {
  AddRegister(app, cli);
  app.add_subcommand("list", "List the models")->callback([&cli] {
    cli.action = [&cli](Client& client) { return List(cli, client); };
  });
  auto* show = app.add_subcommand("show", "Show one model");
  auto name = std::make_shared<std::string>();
  show->add_option("MODEL", *name, "Name of the model")->required();
  show->callback([&cli, name] {
    cli.action = [&cli, name](Client& client) -> absl::Status {
      v1::GetModelRequest request;
      request.set_model_name(*name);
      ASSIGN_OR_RETURN(const v1::Model model,
                       client.Call(&v1::Registry::Stub::GetModel, client.registry(), request));
      return ShowModel(cli, model);
    };
  });
  AddUpdate(app, cli);
  AddDelete(app, cli);
  app.add_subcommand("caches", "List the caches")->callback([&cli] {
    cli.action = [&cli](Client& client) { return Caches(cli, client); };
  });
  AddSpace(app, cli);
}

}  // namespace modeld
