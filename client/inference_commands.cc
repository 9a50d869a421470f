#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/arguments.h"
#include "client/chat_answer.h"
#include "client/commands.h"
#include "client/table.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// What --help says of each field of a request. Ranges and defaults are those of the proto.
const char* HelpOf(const std::string& field) {
  static const std::map<std::string, const char*> kHelp = {
      {"max_tokens", "At most so many new tokens (the rest of the context)"},
      {"min_tokens", "No end before so many new tokens (0)"},
      {"temperature", "0 is greedy, up to 100 (the model's)"},
      {"top_k", "Keep so many likeliest tokens; 0: off"},
      {"top_p", "Keep the likeliest tokens of this probability; above 0 to 1"},
      {"min_p", "Least probability relative to the likeliest; 0 to 1"},
      {"typical_p", "Keep the most typical tokens of this probability; above 0 to 1"},
      {"top_n_sigma", "Keep logits so many standard deviations below the highest; 0: off"},
      {"repetition_penalty", "Divides logits of tokens that were there; 1: off"},
      {"presence_penalty", "Subtracted from tokens of the answer; -2 to 2"},
      {"frequency_penalty", "Subtracted for each time in the answer; -2 to 2"},
      {"bad_words", "The answer shall not contain this text (repeatable)"},
      {"allowed_token_ids", "Only these tokens (repeatable)"},
      {"dry_multiplier", "Penalty for what prolongs a repetition; 0: off"},
      {"dry_base", "Its growth with each token of the repetition; 1 to 100 (1.75)"},
      {"dry_allowed_length", "Repetitions shorter than this are free (2)"},
      {"dry_penalty_last_n", "Look at so many last tokens only (all)"},
      {"dry_sequence_breakers", "No repetition reaches over this text (repeatable)"},
      {"xtc_probability", "How often the likeliest tokens are left out; 0 to 1 (0)"},
      {"xtc_threshold", "Which tokens those are; 0 to 0.5 (0.1)"},
      {"seed", "For repeatable answers"},
      {"stop", "End before this text (repeatable)"},
      {"stop_token_ids", "End with this token (repeatable)"},
      {"ignore_eos", "Go on after the end-of-sequence token"},
      {"logprobs", "Alternatives per token, 0 to 20 (with -o json)"},
      {"prompt_logprobs", "Alternatives per token of the prompt, 0 to 20 (with -o json)"},
      {"n", "So many answers, 1 to 32 (1)"},
      {"best_of", "Generate so many answers and show the likeliest; n to 32 (n)"},
      {"num_beams", "Beam search with so many beams, 1 to 32 (1: off)"},
      {"length_penalty", "Above 0 beam search favours long answers; -100 to 100 (1)"},
      {"early_stopping", "When beam search ends: false, true or never (false)"},
      {"echo", "Begin each answer with the prompt"},
      {"split_special_tokens", "Read special tokens that the prompt spells as ordinary text"},
      {"cache_salt", "Share what was kept of prompts only with requests of this salt"},
      {"token_ids", "Continue these tokens in place of a text (repeatable)"},
      {"logit_bias", "TOKEN=BIAS is added to the token's logit; -100 to 100 (repeatable)"},
  };
  return kHelp.at(field);
}

template <typename T>
void AddScalar(CLI::App* command, Message* message, const FieldDescriptor* field,
               void (Reflection::*set)(Message*, const FieldDescriptor*, T) const) {
  std::string option = "--" + absl::StrReplaceAll(field->name(), {{"_", "-"}});
  command->add_option_function<T>(
      option, [=](T v) { (message->GetReflection()->*set)(message, field, v); },
      HelpOf(field->name()));
}

template <typename T>
void AddList(CLI::App* command, Message* message, const FieldDescriptor* field,
             void (Reflection::*add)(Message*, const FieldDescriptor*, T) const) {
  std::string option = "--" + absl::StrReplaceAll(field->name(), {{"_", "-"}});
  command
      ->add_option_function<std::vector<T>>(
          option,
          [=](const std::vector<T>& values) {
            for (const T& v : values) (message->GetReflection()->*add)(message, field, v);
          },
          HelpOf(field->name()))
      ->allow_extra_args(false);
}

void AddLogitBias(CLI::App* command, v1::Sampling* sampling) {
  command
      ->add_option_function<std::vector<std::string>>(
          "--logit-bias",
          [sampling](const std::vector<std::string>& entries) {
            for (const std::string& entry : entries) {
              const size_t equals = std::min(entry.find('='), entry.size() - 1);
              int64_t id = 0;
              double bias = 0;
              if (!absl::SimpleAtoi(entry.substr(0, equals), &id) ||
                  !absl::SimpleAtod(entry.substr(equals + 1), &bias)) {
                throw CLI::ValidationError("--logit-bias", entry + " is not TOKEN=BIAS");
              }
              (*sampling->mutable_logit_bias())[id] = bias;
            }
          },
          HelpOf("logit_bias"))
      ->allow_extra_args(false);
}

void AddFieldOption(CLI::App* command, Message* message, const FieldDescriptor* field) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      if (field->is_repeated()) return AddList(command, message, field, &Reflection::AddInt64);
      return AddScalar(command, message, field, &Reflection::SetInt64);
    case FieldDescriptor::CPPTYPE_UINT64:
      return AddScalar(command, message, field, &Reflection::SetUInt64);
    case FieldDescriptor::CPPTYPE_INT32:
      return AddScalar(command, message, field, &Reflection::SetInt32);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return AddScalar(command, message, field, &Reflection::SetDouble);
    case FieldDescriptor::CPPTYPE_STRING:
      if (field->is_repeated()) return AddList(command, message, field, &Reflection::AddString);
      return AddScalar(command, message, field, &Reflection::SetString);
    case FieldDescriptor::CPPTYPE_BOOL:
      command->add_flag_function(
          "--" + absl::StrReplaceAll(field->name(), {{"_", "-"}}),
          [=](int64_t) { message->GetReflection()->SetBool(message, field, true); },
          HelpOf(field->name()));
      return;
    default:
      return;  // a map or a message: has an option of its own
  }
}

// An option for each field of Sampling.
void AddSamplingOptions(CLI::App* command, v1::Sampling* sampling) {
  for (int i = 0; i < v1::Sampling::descriptor()->field_count(); ++i) {
    AddFieldOption(command, sampling, v1::Sampling::descriptor()->field(i));
  }
  AddLogitBias(command, sampling);
}

// Reads the whole file that an option names into a field.
void AddFileOption(CLI::App* command, const std::string& option, const std::string& help,
                   std::function<void(std::string)> set) {
  command
      ->add_option_function<std::string>(
          option,
          [set = std::move(set)](const std::string& path) {
            std::ifstream file(path, std::ios::binary);
            set(std::string(std::istreambuf_iterator<char>(file), {}));
          },
          help)
      ->check(CLI::ExistingFile)
      ->type_name("FILE");
}

// What the answer must look like.
void AddStructureOptions(CLI::App* command, v1::Structure* structure) {
  AddFileOption(command, "--json-schema", "Answer with JSON that satisfies this schema",
                [structure](std::string v) { structure->set_schema_json(std::move(v)); });
  command->add_flag_function(
      "--json", [structure](int64_t) { structure->set_json(true); }, "Answer with a JSON object");
  command->add_option_function<std::string>(
      "--regex", [structure](const std::string& v) { structure->set_regex(v); },
      "Answer with what this regular expression matches");
  command
      ->add_option_function<std::vector<std::string>>(
          "--choice",
          [structure](const std::vector<std::string>& v) {
            structure->mutable_choice()->Assign(v.begin(), v.end());
          },
          "Answer with one of these texts (repeatable)")
      ->allow_extra_args(false);
  AddFileOption(command, "--grammar", "Answer with what this Lark grammar allows",
                [structure](std::string v) { structure->set_grammar(std::move(v)); });
}

void Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Prints text as it comes, of several choices each as a whole under its number.
std::function<bool(const v1::GenerateResponse&)> Printer(const Cli& cli,
                                                         const v1::Sampling& sampling) {
  return [&cli, several = sampling.n() > 1, first = true,
          texts = std::map<int, std::string>()](const v1::GenerateResponse& message) mutable {
    if (cli.json()) {
      PrintJson(message, true);
    } else if (several) {
      std::string& whole = texts[message.index()];
      whole += message.text();
      if (message.has_finish_reason()) {
        Print(absl::StrCat(std::exchange(first, false) ? "" : "\n", "[", message.index(), "] ",
                           whole));
      }
    } else {
      Print(message.text());
    }
    return true;
  };
}

// One try of AnswerOnce. Of several choices each is shown as a whole under its number, and choice 0
// is the one that the conversation goes on with.
absl::Status StreamAnswer(const Cli& cli, Client& client, v1::ChatRequest& request) {
  const bool several = request.sampling().n() > 1;
  const auto reasoning = isatty(STDOUT_FILENO) == 1 && !several ? ChatAnswer::Reasoning::kDimmed
                                                                : ChatAnswer::Reasoning::kHidden;
  std::map<int, ChatAnswer> answers;
  answers.try_emplace(0, reasoning);
  RETURN_IF_ERROR(client.Chat(request, [&](const v1::GenerateResponse& piece) {
    ChatAnswer& answer = answers.try_emplace(piece.index(), reasoning).first->second;
    const std::string shown = answer.Add(piece);
    if (cli.json()) {
      PrintJson(piece, true);
    } else if (!several) {
      Print(shown);
    }
    return true;
  }));
  for (auto& [index, answer] : answers) {
    const std::string rest = answer.End();
    if (cli.json()) continue;
    Print(several ? absl::StrCat("[", index, "] ", answer.message().content(), rest) : rest);
  }
  *request.add_messages() = answers.at(0).message();
  return absl::OkStatus();
}

// Answers the conversation so far and appends the answer. Loads the model when it is not loaded.
absl::Status AnswerOnce(const Cli& cli, Client& client, v1::ChatRequest& request) {
  const absl::Status status = StreamAnswer(cli, client, request);
  if (!HasReason(status, Reason::kModelNotReady)) return status;
  v1::LoadModelRequest load;
  load.set_model_name(request.model_name());
  ASSIGN_OR_RETURN(const v1::Operation operation,
                   client.Call(&v1::Orchestrator::Stub::LoadModel, client.orchestrator(), load));
  RETURN_IF_ERROR(FollowOperation(cli, client, operation));
  return StreamAnswer(cli, client, request);
}

// Asks for a line of the conversation; false at its end.
bool ReadLine(const std::string& prompt, std::string& line) {
  if (isatty(STDIN_FILENO) == 1) std::fputs(prompt.c_str(), stderr);
  return static_cast<bool>(std::getline(std::cin, line));
}

// Asks for what each call of the last answer gives; false when the conversation ends instead.
bool ReadResults(v1::ChatRequest& request) {
  const v1::ChatMessage answer = *request.messages().rbegin();
  for (const v1::ToolCall& call : answer.tool_calls()) {
    std::string result;
    if (!ReadLine("result of " + call.name() + ">>> ", result)) return false;
    v1::ChatMessage& message = *request.add_messages();
    message.set_role("tool");
    message.set_content(result);
    message.set_tool_call_id(call.id());
    message.set_name(call.name());
  }
  return true;
}

absl::Status Converse(const Cli& cli, Client& client, v1::ChatRequest& request) {
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal)
    std::fprintf(stderr, "Chat with %s; end with Ctrl-D.\n", request.model_name().c_str());
  std::string line;
  while (ReadLine(">>> ", line)) {
    if (line.empty()) continue;
    auto* message = request.add_messages();
    message->set_role("user");
    message->set_content(line);
    RETURN_IF_ERROR(AnswerOnce(cli, client, request));
    while (request.messages().rbegin()->tool_calls_size() > 0) {
      if (!ReadResults(request)) break;
      RETURN_IF_ERROR(AnswerOnce(cli, client, request));
    }
  }
  if (terminal) std::fprintf(stderr, "\n");
  return absl::OkStatus();
}

absl::Status ReadToolsFile(const std::string& path, v1::ChatRequest& request) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::InvalidArgumentError("cannot read " + path);
  const std::string json(std::istreambuf_iterator<char>(file), {});
  ASSIGN_OR_RETURN(const std::vector<v1::Tool> tools, ParseTools(json));
  request.mutable_tools()->Assign(tools.begin(), tools.end());
  return absl::OkStatus();
}

void AddRun(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("run", "Chat with a model; loads it when needed");
  auto request = std::make_shared<v1::ChatRequest>();
  auto prompt = std::make_shared<std::string>();
  auto system = std::make_shared<std::string>();
  auto tools = std::make_shared<std::string>();
  AddModelArgument(command, request);
  command->add_option("PROMPT", *prompt, "Ask this once; without it a conversation begins");
  command->add_option("--system", *system, "System message");
  command->add_option_function<std::string>(
      "--template-args", [request](const std::string& v) { request->set_template_args_json(v); },
      "JSON object of variables for the chat template, and thinking_budget");
  command->add_option("--tools", *tools, "File with the functions that the model may call (JSON)");
  command->add_option_function<std::string>(
      "--tool-choice", [request](const std::string& v) { request->set_tool_choice(v); },
      "auto, none, required or the name of a function (auto)");
  command->add_flag_callback(
      "--no-parallel-tool-calls", [request] { request->set_parallel_tool_calls(false); },
      "End the answer behind its first call");
  AddFieldOption(command, request.get(),
                 v1::ChatRequest::descriptor()->FindFieldByName("cache_salt"));
  AddSamplingOptions(command, request->mutable_sampling());
  AddStructureOptions(command, request->mutable_structure());
  command->callback([&cli, request, prompt, system, tools] {
    cli.action = [&cli, request, prompt, system, tools](Client& client) -> absl::Status {
      if (!tools->empty()) RETURN_IF_ERROR(ReadToolsFile(*tools, *request));
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
  for (const char* field : {"token_ids", "echo", "split_special_tokens", "cache_salt"}) {
    AddFieldOption(command, request.get(),
                   v1::GenerateRequest::descriptor()->FindFieldByName(field));
  }
  AddSamplingOptions(command, request->mutable_sampling());
  AddStructureOptions(command, request->mutable_structure());
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) -> absl::Status {
      if (request->prompt().empty() && request->token_ids().empty()) {
        request->set_prompt(std::string(std::istreambuf_iterator<char>(std::cin), {}));
      }
      const absl::Status status = client.Generate(*request, Printer(cli, request->sampling()));
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
  command->add_option_function<std::string>(
      "--prompt-name", [request](const std::string& v) { request->set_prompt_name(v); },
      "A prompt of the repository that goes before each text (its default one)");
  command->add_option_function<int32_t>(
      "--dimensions", [request](int32_t v) { request->set_dimensions(v); },
      "Only so many first components (all)");
  command->add_flag_function(
      "--normalize,!--no-normalize",
      [request](int64_t count) { request->set_normalize(count > 0); },
      "Whether vectors get length 1 (as the repository says)");
  command->add_flag_function(
      "--no-truncate", [request](int64_t) { request->set_truncate(false); },
      "Refuse texts that are too long instead of cutting them off");
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
