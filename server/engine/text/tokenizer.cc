#include "server/engine/text/tokenizer.h"

#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/core/reason.h"
#include "server/engine/text/crate_text.h"
#include "server/engine/text/special_tokens.h"

namespace modeld {
namespace {

// The largest known file, of a vocabulary of 262,144 tokens, has 33 MB.
constexpr int64_t kTokenizerBytesMax = 256 << 20;

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
  constexpr std::string_view kFile = "tokenizer.json";
  ASSIGN_OR_RETURN(const std::string json,
                   ReadSnapshotFile(snapshot_path, std::string(kFile), kTokenizerBytesMax));
  if (json.empty()) {
    return Error(Reason::kInvalidRepository, "the repository has no tokenizer.json");
  }
  modeld_text_tokenizer* tokenizer = nullptr;
  modeld_text_bytes error{};
  const modeld_text_kind kind = modeld_text_tokenizer_new(ToView(json), &tokenizer, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, kFile);

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

}  // namespace modeld
