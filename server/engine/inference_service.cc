#include "server/engine/inference_service.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/core/reason.h"
#include "server/engine/chat/harmony_answer.h"
#include "server/engine/chat_answer.h"
#include "server/engine/chat_prompt.h"
#include "server/engine/embedding_call.h"
#include "server/engine/generation_stream.h"
#include "server/engine/required_calls.h"
#include "server/engine/sampling_tokens.h"
#include "server/wire/convert.h"
#include "server/wire/status_wire.h"

namespace modeld {
namespace {

// So many tokens before the answer decide how its first one is written (a leading space).
constexpr size_t kPromptTailTokens = 8;

constexpr size_t kCacheSaltBytesMax = 256;

absl::Status TooManyWaiting() {
  return Error(Reason::kQueueFull, "too many requests wait for the tokenizer");
}

std::optional<std::chrono::steady_clock::time_point> DeadlineOf(
    const grpc::CallbackServerContext& context) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  // No deadline arrives as one that is centuries away.
  if (left > std::chrono::hours(24 * 365)) return std::nullopt;
  return std::chrono::steady_clock::now() + left;
}

absl::Status CheckIds(std::span<const int64_t> ids, int64_t vocab_size) {
  const auto bad =
      std::ranges::find_if(ids, [vocab_size](int64_t id) { return id < 0 || id >= vocab_size; });
  if (bad == ids.end()) return absl::OkStatus();
  return InvalidField("token_ids",
                      absl::StrCat(*bad, " is not a token of the model, which has ", vocab_size));
}

// A token has at most so many bytes, so this one need not be tokenized to be refused.
absl::Status CheckBytes(const std::string& text, const ServingModel& model) {
  const auto tokens_at_least =
      static_cast<int64_t>(text.size() / model.special_tokens.longest_token_bytes());
  if (tokens_at_least <= model.loaded.max_context) return absl::OkStatus();
  return Error(Reason::kContextLengthExceeded,
               absl::StrCat("the prompt has ", text.size(), " bytes, at least ", tokens_at_least,
                            " tokens; the context holds ", model.loaded.max_context),
               {{"max_context", std::to_string(model.loaded.max_context)}});
}

absl::Status CheckLimit(const char* field, size_t bytes, const RequestLimits& limits) {
  if (static_cast<int64_t>(bytes) <= limits.prompt_bytes_max) return absl::OkStatus();
  return InvalidField(field,
                      absl::StrCat("has ", bytes, " bytes, at most ", limits.prompt_bytes_max,
                                   " are allowed (limits.prompt_bytes_max)"));
}

size_t BytesOf(const google::protobuf::RepeatedPtrField<modeld::v1::ChatMessage>& messages) {
  size_t bytes = 0;
  for (const modeld::v1::ChatMessage& message : messages) bytes += message.ByteSizeLong();
  return bytes;
}

absl::StatusOr<std::vector<int64_t>> PromptOf(const modeld::v1::GenerateRequest& request,
                                              const ServingModel& model) {
  if (request.prompt().empty() == request.token_ids().empty()) {
    return InvalidField("prompt", "exactly one of prompt and token_ids must be set");
  }
  if (!request.token_ids().empty()) {
    std::vector<int64_t> ids(request.token_ids().begin(), request.token_ids().end());
    RETURN_IF_ERROR(CheckIds(ids, model.loaded.model->vocab_size()));
    return ids;
  }
  RETURN_IF_ERROR(CheckBytes(request.prompt(), model));
  RETURN_IF_ERROR(CheckLimit("prompt", request.prompt().size(), model.limits));
  return model.tokenizer->Encode(request.prompt(), /*add_special_tokens=*/true,
                                 !request.split_special_tokens());
}

absl::StatusOr<ChatPrompt> ChatPromptOf(const ChatPromptInput& input, const ServingModel& model) {
  RETURN_IF_ERROR(model.chat_template.status());
  RETURN_IF_ERROR(CheckLimit("messages", BytesOf(input.messages), model.limits));
  if (input.tools.size() > model.limits.tools_max) {
    return InvalidField("tools",
                        absl::StrCat("has ", input.tools.size(), " entries, at most ",
                                     model.limits.tools_max, " are allowed (limits.tools_max)"));
  }
  return MakeChatPrompt(input, *model.tokenizer, model.special_tokens, **model.chat_template);
}

std::function<TokenText()> TokenTextOf(const ServingModel& model, std::span<const int64_t> prompt) {
  const auto tail = prompt.last(std::min(prompt.size(), kPromptTailTokens));
  return [&tokenizer = *model.tokenizer, tail = std::vector<int64_t>(tail.begin(), tail.end())] {
    auto stream = std::make_shared<TokenStream>(tokenizer, tail, /*skip_special_tokens=*/true);
    return [stream](std::optional<int64_t> id) { return id ? stream->Put(*id) : stream->Finish(); };
  };
}

// What the answer of a request with `echo` begins with: the prompt as it was given.
absl::StatusOr<std::string> EchoText(const modeld::v1::GenerateRequest& request,
                                     std::span<const int64_t> prompt, const Tokenizer& tokenizer) {
  if (!request.prompt().empty()) return request.prompt();
  return tokenizer.Decode(prompt, /*skip_special_tokens=*/false);
}

absl::StatusOr<std::optional<AnswerStructure>> StructureOf(const modeld::v1::Structure& structure,
                                                           ServingModel& model) {
  ASSIGN_OR_RETURN(const std::optional<GrammarSource> source,
                   ReadStructure(structure, model.limits));
  if (!source) return std::nullopt;
  return model.structures.Compile(*source, *model.tokenizer,
                                  model.loaded.generation_defaults.eos_token_ids);
}

struct CallOptions {
  std::string method;
  const modeld::v1::Sampling& sampling;
  const modeld::v1::Structure& structure;
  const std::string& cache_salt;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::optional<std::string> echo_text;
};

absl::StatusOr<PreparedGeneration> PrepareGeneration(std::shared_ptr<ServingModel> model,
                                                     std::vector<int64_t> prompt,
                                                     CallOptions call) {
  if (prompt.empty()) return InvalidField("prompt", "has no tokens");
  if (call.cache_salt.size() > kCacheSaltBytesMax) {
    return InvalidField("cache_salt",
                        absl::StrCat("has ", call.cache_salt.size(), " bytes, at most ",
                                     kCacheSaltBytesMax, " are allowed"));
  }
  RETURN_IF_ERROR(CheckIds(prompt, model->loaded.model->vocab_size()));
  const GenerationDefaults& defaults = model->loaded.generation_defaults;
  const SamplingRequest asked = FromProto(call.sampling);
  ASSIGN_OR_RETURN(Sampling sampling, DecideSampling(asked, defaults, std::ssize(prompt),
                                                     model->loaded.max_context, model->limits));
  if (sampling.max_tokens == 0 && !sampling.prompt_logprobs && !call.echo_text) {
    return InvalidField("sampling.max_tokens",
                        "is 0, which needs sampling.prompt_logprobs or echo");
  }
  RETURN_IF_ERROR(AddTokens(asked, *model->tokenizer, model->loaded.model->vocab_size(), sampling));
  ASSIGN_OR_RETURN(std::optional<AnswerStructure> structure, StructureOf(call.structure, *model));
  if (structure && sampling.num_beams > 1) {
    return InvalidField("structure", "is not there with sampling.num_beams above 1");
  }
  PreparedGeneration out;
  out.request = {.method = call.method,
                 .cache_salt = call.cache_salt,
                 .sampling = std::move(sampling),
                 .eos_token_ids = defaults.eos_token_ids,
                 .new_token_text = TokenTextOf(*model, prompt),
                 .echo_text = std::move(call.echo_text),
                 .structure = std::move(structure),
                 .deadline = call.deadline};
  out.request.prompt = std::move(prompt);
  out.model = std::move(model);
  return out;
}

// The tools that the template shows: none that the model may not call.
const google::protobuf::RepeatedPtrField<modeld::v1::Tool>& ShownTools(
    const modeld::v1::ChatRequest& request, const ToolChoice& choice) {
  static const google::protobuf::RepeatedPtrField<modeld::v1::Tool> kNone;
  return choice.kind == ToolChoice::Kind::kNone ? kNone : request.tools();
}

// Has the answers to a chat taken apart.
absl::Status TakeApart(const modeld::v1::ChatRequest& request, const ChatAnswer& answer,
                       const ServingModel& model, GenerationRequest& out) {
  const AnswerFormat& format = answer.tokens.format;
  if (format.marks().empty()) return absl::OkStatus();
  const std::span<const int64_t> ids = out.prompt;
  const auto tail = ids.last(std::min(ids.size(), kPromptTailTokens));
  out.new_token_text = ChatTokenTextOf(answer.tokens, *model.tokenizer, tail);
  out.parts.new_parser = AnswerParserOf(answer);
  ASSIGN_OR_RETURN(out.parts.reasoning_tokens_max,
                   ReadThinkingBudget(request.template_args_json()));
  if (!out.parts.reasoning_tokens_max) return absl::OkStatus();
  if (out.sampling.num_beams > 1) {
    return InvalidField(
        "template_args_json",
        "has a thinking_budget, which is not there with sampling.num_beams above 1");
  }
  ASSIGN_OR_RETURN(out.parts.end_of_reasoning,
                   model.tokenizer->Encode(format.EndOfReasoning(),
                                           /*add_special_tokens=*/false));
  return absl::OkStatus();
}

// Has the structure begin with the answer proper, after a reasoning that the prompt has opened.
absl::Status PlaceStructure(const ChatAnswer& answer, const ToolChoice& choice,
                            AnswerStructure& structure) {
  const AnswerFormat& format = answer.tokens.format;
  if (choice.kind != ToolChoice::Kind::kNone && !answer.tools->empty()) {
    return InvalidField("structure", "leaves no room for calls: set tool_choice to none");
  }
  if (format.is_harmony()) {
    return InvalidField("structure", "is not there for models that answer in channels");
  }
  if (!answer.in_reasoning) return absl::OkStatus();
  const std::string close = format.TextOf(format.reasoning()->close);
  const auto& texts = answer.tokens.texts;
  const auto end =
      std::ranges::find_if(texts, [&](const auto& token) { return token.second == close; });
  if (end == texts.end()) {
    return InvalidField("structure",
                        "cannot begin after the reasoning, whose end is no token of "
                        "this model: switch the reasoning off");
  }
  structure.begins_after = [id = end->first](std::span<const int64_t> so_far) {
    return so_far.back() == id;
  };
  return absl::OkStatus();
}

// Has the model call tools where the request wants it to, and no more often than that.
absl::Status MakeCall(const modeld::v1::ChatRequest& request, const ToolChoice& choice,
                      const ChatAnswer& answer, ServingModel& model, GenerationRequest& out) {
  const bool one_call = request.has_parallel_tool_calls() && !request.parallel_tool_calls();
  const bool required = choice.kind == ToolChoice::Kind::kRequired;
  if (choice.kind == ToolChoice::Kind::kNone || (!one_call && !required)) return absl::OkStatus();
  if (out.sampling.num_beams > 1) {
    return InvalidField(required ? "tool_choice" : "parallel_tool_calls",
                        "bounds calls, which is not there with sampling.num_beams above 1");
  }
  if (!required) {
    out.parts.one_call = true;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(
      out.structure,
      RequiredCalls(request, choice, answer,
                    {.tokenizer = *model.tokenizer,
                     .special_tokens = model.special_tokens,
                     .structures = model.structures,
                     .end_token_ids = model.loaded.generation_defaults.eos_token_ids}));
  // The final message, which a reasoning that is cut goes on with, is no call.
  if (!answer.tokens.format.is_harmony() || !out.parts.reasoning_tokens_max) {
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(out.parts.end_of_reasoning,
                   model.tokenizer->Encode(kHarmonyReasoningEnd, /*add_special_tokens=*/false));
  return absl::OkStatus();
}

absl::StatusOr<PreparedGeneration> PrepareChat(
    const modeld::v1::ChatRequest& request, std::shared_ptr<ServingModel> model,
    std::optional<std::chrono::steady_clock::time_point> deadline) {
  RETURN_IF_ERROR(model->chat_template.status());
  ASSIGN_OR_RETURN(const ToolChoice choice, ReadToolChoice(request, model->answer_formats));
  ASSIGN_OR_RETURN(ChatPrompt prompt,
                   ChatPromptOf({.messages = request.messages(),
                                 .tools = ShownTools(request, choice),
                                 .template_args_json = request.template_args_json()},
                                *model));
  const ServingModel& serving = *model;
  ASSIGN_OR_RETURN(PreparedGeneration out,
                   PrepareGeneration(std::move(model), std::move(prompt.token_ids),
                                     {"Chat", request.sampling(), request.structure(),
                                      request.cache_salt(), deadline, std::nullopt}));
  const ChatAnswer answer = MakeChatAnswer(request, choice, prompt.text, serving.answer_formats);
  RETURN_IF_ERROR(TakeApart(request, answer, serving, out.request));
  if (out.request.structure) {
    RETURN_IF_ERROR(PlaceStructure(answer, choice, *out.request.structure));
  }
  RETURN_IF_ERROR(MakeCall(request, choice, answer, *out.model, out.request));
  return out;
}

}  // namespace

template <typename Prepare>
grpc::ServerWriteReactor<modeld::v1::GenerateResponse>* InferenceService::Stream(const char* method,
                                                                                 Prepare prepare) {
  auto* stream = new GenerationStream;  // deletes itself
  const bool accepted = executor_.Run([this, stream, method, prepare = std::move(prepare)] {
    absl::StatusOr<std::shared_ptr<ServingModel>> model = slot_.Get();
    absl::Status status = model.status();
    if (status.ok()) status = (*model)->CheckGenerates(method);
    stream->Start(status.ok() ? prepare(*std::move(model)) : status);
  });
  if (!accepted) stream->Start(TooManyWaiting());
  return stream;
}

template <typename Answer>
grpc::ServerUnaryReactor* InferenceService::Unary(grpc::CallbackServerContext* context,
                                                  Answer answer) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool accepted = executor_.Run([this, reactor, answer = std::move(answer)] {
    const absl::StatusOr<std::shared_ptr<ServingModel>> model = slot_.Get();
    reactor->Finish(ToGrpcStatus(model.ok() ? answer(**model) : model.status()));
  });
  if (!accepted) reactor->Finish(ToGrpcStatus(TooManyWaiting()));
  return reactor;
}

grpc::ServerWriteReactor<modeld::v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const modeld::v1::GenerateRequest* request) {
  return Stream("Generate",
                [request, deadline = DeadlineOf(*context)](
                    std::shared_ptr<ServingModel> model) -> absl::StatusOr<PreparedGeneration> {
                  ASSIGN_OR_RETURN(std::vector<int64_t> prompt, PromptOf(*request, *model));
                  std::optional<std::string> echo_text;
                  if (request->echo()) {
                    ASSIGN_OR_RETURN(echo_text, EchoText(*request, prompt, *model->tokenizer));
                  }
                  return PrepareGeneration(std::move(model), std::move(prompt),
                                           {"Generate", request->sampling(), request->structure(),
                                            request->cache_salt(), deadline, std::move(echo_text)});
                });
}

grpc::ServerWriteReactor<modeld::v1::GenerateResponse>* InferenceService::Chat(
    grpc::CallbackServerContext* context, const modeld::v1::ChatRequest* request) {
  return Stream("Chat",
                [request, deadline = DeadlineOf(*context)](std::shared_ptr<ServingModel> model) {
                  return PrepareChat(*request, std::move(model), deadline);
                });
}

grpc::ServerUnaryReactor* InferenceService::Embed(grpc::CallbackServerContext* context,
                                                  const modeld::v1::EmbedRequest* request,
                                                  modeld::v1::EmbedResponse* response) {
  auto* call = new EmbeddingCall(*request, DeadlineOf(*context), *response);  // deletes itself
  if (!executor_.Run([this, call] { call->Start(slot_.Get()); })) call->Start(TooManyWaiting());
  return call;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const modeld::v1::TokenizeRequest* request,
                                                     modeld::v1::TokenizeResponse* response) {
  return Unary(context, [request, response](const ServingModel& model) -> absl::Status {
    RETURN_IF_ERROR(CheckLimit("text", request->text().size(), model.limits));
    ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                     model.tokenizer->Encode(request->text(), request->add_special_tokens()));
    response->mutable_token_ids()->Assign(ids.begin(), ids.end());
    for (const int64_t id : ids) response->add_tokens(model.tokenizer->TokenSpelling(id));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const modeld::v1::DetokenizeRequest* request,
                                                       modeld::v1::DetokenizeResponse* response) {
  return Unary(context, [request, response](const ServingModel& model) -> absl::Status {
    const std::vector<int64_t> ids(request->token_ids().begin(), request->token_ids().end());
    ASSIGN_OR_RETURN(*response->mutable_text(),
                     model.tokenizer->Decode(ids, request->skip_special_tokens()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceService::ApplyChatTemplate(
    grpc::CallbackServerContext* context, const modeld::v1::ApplyChatTemplateRequest* request,
    modeld::v1::ApplyChatTemplateResponse* response) {
  return Unary(context, [request, response](const ServingModel& model) -> absl::Status {
    const bool generation_prompt =
        !request->has_add_generation_prompt() || request->add_generation_prompt();
    ASSIGN_OR_RETURN(ChatPrompt prompt,
                     ChatPromptOf({.messages = request->messages(),
                                   .tools = request->tools(),
                                   .template_args_json = request->template_args_json(),
                                   .add_generation_prompt = generation_prompt},
                                  model));
    response->set_prompt(std::move(prompt.text));
    response->mutable_token_ids()->Assign(prompt.token_ids.begin(), prompt.token_ids.end());
    return absl::OkStatus();
  });
}

}  // namespace modeld
