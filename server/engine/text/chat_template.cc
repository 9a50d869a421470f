#include "server/engine/text/chat_template.h"

#include <chrono>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "server/core/reason.h"
#include "server/engine/text/crate_text.h"
#include "server/engine/text/special_tokens.h"

namespace modeld {
namespace {

// The largest known template has 30 kB. The parser's recursion, at worst a call per byte, has to
// fit into the crate's stack of 1 GiB.
constexpr int64_t kTemplateBytesMax = 256 << 10;

constexpr char kDefault[] = "default";
constexpr char kToolUse[] = "tool_use";

struct FreeTemplate {
  void operator()(modeld_text_template* chat_template) const {
    modeld_text_template_free(chat_template);
  }
};
using TemplatePtr = std::unique_ptr<modeld_text_template, FreeTemplate>;

absl::StatusOr<TemplatePtr> Parse(std::string_view source, std::string_view what) {
  if (std::ssize(source) > kTemplateBytesMax) {
    return Error(Reason::kInvalidRepository,
                 absl::StrFormat("%s is %d bytes long, of at most %d", what, source.size(),
                                 kTemplateBytesMax));
  }
  modeld_text_template* chat_template = nullptr;
  modeld_text_bytes error{};
  const modeld_text_kind kind = modeld_text_template_new(ToView(source), &chat_template, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, what);
  return TemplatePtr(chat_template);
}

// The sources by name out of tokenizer_config.json's "chat_template".
absl::StatusOr<std::map<std::string, std::string>> NamedSources(const nlohmann::json& value) {
  if (value.is_string()) return std::map<std::string, std::string>{{kDefault, value}};
  const absl::Status wrong_type =
      Error(Reason::kInvalidRepository,
            "tokenizer_config.json: chat_template is neither a string nor a list of named strings");
  if (!value.is_array()) return wrong_type;
  std::map<std::string, std::string> sources;
  for (const nlohmann::json& item : value) {
    if (!item.is_object()) return wrong_type;
    const auto name = item.find("name");
    const auto source = item.find("template");
    if (name == item.end() || !name->is_string() || source == item.end() || !source->is_string()) {
      return wrong_type;
    }
    sources[name->get<std::string>()] = source->get<std::string>();
  }
  return sources;
}

absl::StatusOr<std::map<std::string, std::string>> ReadSources(const std::string& snapshot_path) {
  ASSIGN_OR_RETURN(const std::string file,
                   ReadSnapshotFile(snapshot_path, "chat_template.jinja", kTemplateBytesMax));
  if (!file.empty()) return std::map<std::string, std::string>{{kDefault, file}};
  ASSIGN_OR_RETURN(const nlohmann::json config,
                   ReadSnapshotObject(snapshot_path, "tokenizer_config.json"));
  const auto value = config.find("chat_template");
  if (value == config.end() || value->is_null()) return std::map<std::string, std::string>();
  return NamedSources(*value);
}

struct NamedTemplate {
  std::string source;
  TemplatePtr parsed;
};

}  // namespace

struct ChatTemplate::Rep {
  std::map<std::string, NamedTemplate> templates;
  std::string special_tokens_json;

  // The one for a conversation with or without tools; the end when there is none.
  auto Find(bool with_tools) const {
    const auto for_tools = templates.find(kToolUse);
    return with_tools && for_tools != templates.end() ? for_tools : templates.find(kDefault);
  }
};

ChatTemplate::ChatTemplate(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& snapshot_path) {
  ASSIGN_OR_RETURN(const auto sources, ReadSources(snapshot_path));
  auto rep = std::make_unique<Rep>();
  // Other names are for uses that modeld does not have, such as "rag".
  for (const char* name : {kDefault, kToolUse}) {
    const auto source = sources.find(name);
    if (source == sources.end()) continue;
    ASSIGN_OR_RETURN(TemplatePtr parsed,
                     Parse(source->second, std::string("chat template ") + name));
    rep->templates[name] = {source->second, std::move(parsed)};
  }
  if (rep->templates.empty()) {
    return Error(Reason::kNoChatTemplate, "the repository has no chat template");
  }
  ASSIGN_OR_RETURN(const auto special_tokens, ReadSpecialTokens(snapshot_path));
  rep->special_tokens_json = nlohmann::json(special_tokens).dump();
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(rep)));
}

absl::StatusOr<std::string> ChatTemplate::Render(const Input& input) const {
  const auto chosen = rep_->Find(!input.tools_json.empty());
  if (chosen == rep_->templates.end()) {
    return InvalidField("tools", "the model's only chat template is the one for tools");
  }
  const auto now = input.now.value_or(std::chrono::system_clock::now());
  const modeld_text_render_input render{
      .messages = ToView(input.messages_json),
      .tools = ToView(input.tools_json),
      .args = ToView(input.template_args_json),
      .special_tokens = ToView(rep_->special_tokens_json),
      .add_generation_prompt = input.add_generation_prompt,
      .now_unix_s = std::chrono::floor<std::chrono::seconds>(now).time_since_epoch().count(),
  };
  modeld_text_bytes prompt{};
  modeld_text_bytes error{};
  const modeld_text_kind kind =
      modeld_text_template_render(chosen->second.parsed.get(), &render, &prompt, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, "chat template");
  return TakeText(prompt);
}

const std::string& ChatTemplate::Source(bool with_tools) const {
  static const std::string kNone;
  const auto chosen = rep_->Find(with_tools);
  return chosen == rep_->templates.end() ? kNone : chosen->second.source;
}

}  // namespace modeld
