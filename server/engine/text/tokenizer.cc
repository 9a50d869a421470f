#include "server/engine/text/tokenizer.h"

#include <array>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "server/core/reason.h"
#include "server/engine/text/crate_text.h"
#include "server/engine/text/special_tokens.h"

namespace modeld {
namespace {

// The largest known file, of a vocabulary of 262,144 tokens, has 33 MB.
constexpr int64_t kTokenizerBytesMax = 256 << 20;

// The names that SentencePiece models go by.
constexpr auto kSentencePieceFiles =
    std::to_array<std::string_view>({"tokenizer.model", "spiece.model", "sentencepiece.bpe.model"});

// Contents; empty where the file is not there or, besides a tokenizer.json, not needed.
struct Files {
  std::string tokenizer_json;
  std::string sentencepiece;
  std::string vocab_json;
  std::string vocab_txt;
  std::string merges;
  std::string tokenizer_config;
  std::string special_tokens_map;
  std::string added_tokens;
  std::string model_type;
};

absl::StatusOr<Files> ReadFiles(const std::string& snapshot_path) {
  Files files;
  const auto read = [&](std::string_view name, std::string& text) -> absl::Status {
    ASSIGN_OR_RETURN(text, ReadSnapshotFile(snapshot_path, std::string(name), kTokenizerBytesMax));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(read("tokenizer.json", files.tokenizer_json));
  RETURN_IF_ERROR(read("tokenizer_config.json", files.tokenizer_config));
  RETURN_IF_ERROR(read("special_tokens_map.json", files.special_tokens_map));
  RETURN_IF_ERROR(read("added_tokens.json", files.added_tokens));
  if (!files.tokenizer_json.empty()) return files;
  for (const std::string_view name : kSentencePieceFiles) {
    if (files.sentencepiece.empty()) RETURN_IF_ERROR(read(name, files.sentencepiece));
  }
  RETURN_IF_ERROR(read("vocab.json", files.vocab_json));
  RETURN_IF_ERROR(read("vocab.txt", files.vocab_txt));
  RETURN_IF_ERROR(read("merges.txt", files.merges));
  ASSIGN_OR_RETURN(const nlohmann::json config, ReadSnapshotObject(snapshot_path, "config.json"));
  const auto model_type = config.find("model_type");
  if (model_type != config.end() && model_type->is_string()) {
    files.model_type = model_type->get<std::string>();
  }
  return files;
}

struct FreeTokenizer {
  void operator()(modeld_text_tokenizer* tokenizer) const { modeld_text_tokenizer_free(tokenizer); }
};

bool IsId(int64_t id) { return id >= 0 && id <= std::numeric_limits<uint32_t>::max(); }

std::string Find(const std::map<std::string, std::string>& tokens, const std::string& name) {
  const auto it = tokens.find(name);
  return it == tokens.end() ? std::string() : it->second;
}

}  // namespace

struct Tokenizer::Rep {
  std::unique_ptr<modeld_text_tokenizer, FreeTokenizer> tokenizer;
  std::string bos_token;
  std::string eos_token;
};

Tokenizer::Tokenizer(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& snapshot_path) {
  ASSIGN_OR_RETURN(const Files files, ReadFiles(snapshot_path));
  const modeld_text_tokenizer_files views = {
      .tokenizer_json = ToView(files.tokenizer_json),
      .sentencepiece = ToView(files.sentencepiece),
      .vocab_json = ToView(files.vocab_json),
      .vocab_txt = ToView(files.vocab_txt),
      .merges = ToView(files.merges),
      .tokenizer_config = ToView(files.tokenizer_config),
      .special_tokens_map = ToView(files.special_tokens_map),
      .added_tokens = ToView(files.added_tokens),
      .model_type = ToView(files.model_type),
  };
  modeld_text_tokenizer* tokenizer = nullptr;
  modeld_text_bytes error{};
  const modeld_text_kind kind = modeld_text_tokenizer_new(&views, &tokenizer, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, "tokenizer");

  auto rep = std::make_unique<Rep>();
  rep->tokenizer.reset(tokenizer);
  ASSIGN_OR_RETURN(const auto special_tokens, ReadSpecialTokens(snapshot_path));
  rep->bos_token = Find(special_tokens, "bos_token");
  rep->eos_token = Find(special_tokens, "eos_token");
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(rep)));
}

absl::StatusOr<std::vector<int64_t>> Tokenizer::Encode(std::string_view text,
                                                       bool add_special_tokens,
                                                       bool parse_special_tokens) const {
  modeld_text_ids ids{};
  modeld_text_bytes error{};
  const modeld_text_kind kind = modeld_text_tokenizer_encode(
      rep_->tokenizer.get(), ToView(text), add_special_tokens, parse_special_tokens, &ids, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, "tokenizing");
  std::vector<int64_t> result(ids.data, ids.data + ids.size);
  modeld_text_free_ids(ids);
  return result;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int64_t> ids,
                                              bool skip_special_tokens) const {
  std::vector<uint32_t> narrow;
  narrow.reserve(ids.size());
  for (const int64_t id : ids) {
    if (!IsId(id)) {
      return InvalidField("token_ids",
                          absl::StrFormat("no token has the id %d; the vocabulary ends at %d", id,
                                          vocab_size() - 1));
    }
    narrow.push_back(static_cast<uint32_t>(id));
  }
  modeld_text_bytes text{};
  modeld_text_bytes error{};
  const modeld_text_kind kind = modeld_text_tokenizer_decode(
      rep_->tokenizer.get(), narrow.data(), narrow.size(), skip_special_tokens, &text, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, "detokenizing");
  return TakeText(text);
}

std::string Tokenizer::TokenSpelling(int64_t id) const {
  modeld_text_bytes spelling{};
  if (!IsId(id) || !modeld_text_tokenizer_spelling(rep_->tokenizer.get(), static_cast<uint32_t>(id),
                                                   &spelling)) {
    return "";
  }
  return TakeText(spelling);
}

std::optional<int64_t> Tokenizer::TokenId(std::string_view spelling) const {
  const int64_t id = modeld_text_tokenizer_id(rep_->tokenizer.get(), ToView(spelling));
  if (id < 0) return std::nullopt;
  return id;
}

int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(modeld_text_tokenizer_vocab_size(rep_->tokenizer.get()));
}

bool Tokenizer::IsSpecial(int64_t id) const {
  return IsId(id) &&
         modeld_text_tokenizer_is_special(rep_->tokenizer.get(), static_cast<uint32_t>(id));
}

const std::string& Tokenizer::bos_token() const { return rep_->bos_token; }
const std::string& Tokenizer::eos_token() const { return rep_->eos_token; }

const modeld_text_tokenizer* Tokenizer::crate_tokenizer() const { return rep_->tokenizer.get(); }

}  // namespace modeld
