#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <vector>

#include "client/arguments.h"
#include "client/commands.h"
#include "client/table.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

// The options that set fields of Sampling.
void AddSamplingOptions(CLI::App* command, v1::Sampling* sampling) {
  command->add_option_function<int64_t>(
      "--max-tokens", [sampling](int64_t v) { sampling->set_max_tokens(v); },
      "At most so many new tokens");
  command->add_option_function<double>(
      "--temperature", [sampling](double v) { sampling->set_temperature(v); },
      "0 is greedy (the model's)");
  command->add_option_function<double>(
      "--top-p", [sampling](double v) { sampling->set_top_p(v); }, "Nucleus, above 0 to 1");
  command->add_option_function<int64_t>(
      "--top-k", [sampling](int64_t v) { sampling->set_top_k(v); }, "Keep so many tokens; 0: off");
  command->add_option_function<double>(
      "--min-p", [sampling](double v) { sampling->set_min_p(v); }, "Least relative probability");
  command->add_option_function<double>(
      "--repetition-penalty", [sampling](double v) { sampling->set_repetition_penalty(v); },
      "1 is off");
  command->add_option_function<double>(
      "--presence-penalty", [sampling](double v) { sampling->set_presence_penalty(v); }, "-2 to 2");
  command->add_option_function<double>(
      "--frequency-penalty", [sampling](double v) { sampling->set_frequency_penalty(v); },
      "-2 to 2");
  command->add_option_function<uint64_t>(
      "--seed", [sampling](uint64_t v) { sampling->set_seed(v); }, "For repeatable answers");
  command->add_option_function<std::vector<std::string>>(
      "--stop",
      [sampling](const std::vector<std::string>& v) {
        sampling->mutable_stop()->Assign(v.begin(), v.end());
      },
      "End before this text (repeatable)");
  command->add_option_function<int32_t>(
      "--logprobs", [sampling](int32_t v) { sampling->set_logprobs(v); },
      "Alternatives per token, 0 to 20 (with -o json)");
  command->add_flag_function(
      "--ignore-eos", [sampling](int64_t) { sampling->set_ignore_eos(true); },
      "Go on after the end-of-sequence token");
}

// Prints text as it comes; gathers it for the conversation.
std::function<bool(const v1::GenerateResponse&)> Printer(const Cli& cli, std::string* text) {
  return [&cli, text](const v1::GenerateResponse& message) {
    if (cli.json()) {
      PrintJson(message, true);
    } else {
      std::fwrite(message.text().data(), 1, message.text().size(), stdout);
      std::fflush(stdout);
    }
    if (text != nullptr) text->append(message.text());
    return true;
  };
}

// Answers the conversation so far and appends the answer. Loads the model when it is not loaded.
absl::Status AnswerOnce(const Cli& cli, Client& client, v1::ChatRequest& request) {
  std::string answer;
  absl::Status status = client.Chat(request, Printer(cli, &answer));
  if (HasReason(status, Reason::kModelNotReady)) {
    v1::LoadModelRequest load;
    load.set_model_name(request.model_name());
    ASSIGN_OR_RETURN(const v1::Operation operation,
                     client.Call(&v1::Orchestrator::Stub::LoadModel, client.orchestrator(), load));
    RETURN_IF_ERROR(FollowOperation(cli, client, operation));
    status = client.Chat(request, Printer(cli, &answer));
  }
  if (!cli.json()) std::printf("\n");
  RETURN_IF_ERROR(status);
  auto* message = request.add_messages();
  message->set_role("assistant");
  message->set_content(answer);
  return absl::OkStatus();
}

absl::Status Converse(const Cli& cli, Client& client, v1::ChatRequest& request) {
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal)
    std::fprintf(stderr, "Chat with %s; end with Ctrl-D.\n", request.model_name().c_str());
  std::string line;
  while (true) {
    if (terminal) std::fprintf(stderr, ">>> ");
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    auto* message = request.add_messages();
    message->set_role("user");
    message->set_content(line);
    RETURN_IF_ERROR(AnswerOnce(cli, client, request));
  }
  if (terminal) std::fprintf(stderr, "\n");
  return absl::OkStatus();
}

void AddRun(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("run", "Chat with a model; loads it when needed");
  auto request = std::make_shared<v1::ChatRequest>();
  auto prompt = std::make_shared<std::string>();
  auto system = std::make_shared<std::string>();
  AddModelArgument(command, request);
  command->add_option("PROMPT", *prompt, "Ask this once; without it a conversation begins");
  command->add_option("--system", *system, "System message");
  command->add_option_function<std::string>(
      "--template-args", [request](const std::string& v) { request->set_template_args_json(v); },
      "JSON object of variables for the chat template");
  AddSamplingOptions(command, request->mutable_sampling());
  command->callback([&cli, request, prompt, system] {
    cli.action = [&cli, request, prompt, system](Client& client) -> absl::Status {
      if (!system->empty()) {
        auto* message = request->add_messages();
        message->set_role("system");
        message->set_content(*system);
      }
      if (prompt->empty()) return Converse(cli, client, *request);
      auto* message = request->add_messages();
      message->set_role("user");
      message->set_content(*prompt);
      return AnswerOnce(cli, client, *request);
    };
  });
}

void AddGenerate(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("generate", "Continue a text");
  auto request = std::make_shared<v1::GenerateRequest>();
  AddModelArgument(command, request);
  command->add_option_function<std::string>(
      "PROMPT", [request](const std::string& v) { request->set_prompt(v); },
      "The text; without it standard input is read");
  AddSamplingOptions(command, request->mutable_sampling());
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) -> absl::Status {
      if (request->prompt().empty()) {
        request->set_prompt(std::string(std::istreambuf_iterator<char>(std::cin), {}));
      }
      const absl::Status status = client.Generate(*request, Printer(cli, nullptr));
      if (!cli.json()) std::printf("\n");
      return status;
    };
  });
}

void AddTokenize(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("tokenize", "Show the tokens of a text");
  auto request = std::make_shared<v1::TokenizeRequest>();
  AddModelArgument(command, request);
  command
      ->add_option_function<std::string>(
          "TEXT", [request](const std::string& v) { request->set_text(v); }, "The text")
      ->required();
  command->add_flag_function(
      "--special", [request](int64_t) { request->set_add_special_tokens(true); },
      "Add the special tokens that the model expects");
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) -> absl::Status {
      ASSIGN_OR_RETURN(const v1::TokenizeResponse response,
                       client.Call(&v1::Inference::Stub::Tokenize, client.inference(), *request));
      if (cli.json()) {
        PrintJson(response);
        return absl::OkStatus();
      }
      std::vector<std::vector<std::string>> rows;
      for (int i = 0; i < response.token_ids_size(); ++i) {
        rows.push_back({std::to_string(response.token_ids(i)),
                        i < response.tokens_size() ? response.tokens(i) : ""});
      }
      std::fputs(FormatTable({"ID", "TOKEN"}, rows).c_str(), stdout);
      return absl::OkStatus();
    };
  });
}

void AddEmbed(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("embed", "Turn texts into vectors (JSON)");
  auto request = std::make_shared<v1::EmbedRequest>();
  AddModelArgument(command, request);
  command
      ->add_option_function<std::vector<std::string>>(
          "TEXT",
          [request](const std::vector<std::string>& v) {
            request->mutable_inputs()->Assign(v.begin(), v.end());
          },
          "The texts")
      ->required();
  command->callback([&cli, request] {
    cli.action = [request](Client& client) -> absl::Status {
      ASSIGN_OR_RETURN(const v1::EmbedResponse response,
                       client.Call(&v1::Inference::Stub::Embed, client.inference(), *request));
      PrintJson(response);
      return absl::OkStatus();
    };
  });
}

}  // namespace

void AddInferenceCommands(CLI::App& app, Cli& cli) {
  AddRun(app, cli);
  AddGenerate(app, cli);
  AddTokenize(app, cli);
  AddEmbed(app, cli);
}

}  // namespace modeld
