// A repository's tokenizer: text to token ids and back, by the crate `tokenizers`.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct modeld_text_tokenizer;

namespace modeld {

// Immutable and thread-safe; streams hold a reference to it.
class Tokenizer {
 public:
  // Reads tokenizer.json of a snapshot folder or, where there is none, makes what transformers
  // makes of a SentencePiece model, vocab.json and merges.txt, or vocab.txt; adds the tokens that
  // tokenizer_config.json, special_tokens_map.json and added_tokens.json name. INVALID_REPOSITORY
  // when they are missing, broken, or of a class that cannot be made of them.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& snapshot_path);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // With `add_special_tokens` the post-processor adds what the model expects around a text (BOS).
  // `parse_special_tokens` false keeps text such as "<|im_end|>" ordinary text: user input cannot
  // smuggle in special tokens.
  absl::StatusOr<std::vector<int64_t>> Encode(std::string_view text, bool add_special_tokens,
                                              bool parse_special_tokens = true) const;
  // The text of `ids`; INVALID_FIELD (field "token_ids") for an id out of range.
  absl::StatusOr<std::string> Decode(std::span<const int64_t> ids, bool skip_special_tokens) const;
  // The vocabulary's own spelling of one token ("Ġhello"); empty for an id without one.
  std::string TokenSpelling(int64_t id) const;
  std::optional<int64_t> TokenId(std::string_view spelling) const;
  int64_t vocab_size() const;  // with added tokens
  bool IsSpecial(int64_t id) const;

  // bos_token, eos_token, ... of tokenizer_config.json as text; empty when there is none.
  const std::string& bos_token() const;
  const std::string& eos_token() const;

  // For the other users of the crate.
  const modeld_text_tokenizer* crate_tokenizer() const;

 private:
  struct Rep;
  explicit Tokenizer(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
  friend class TokenStream;
};

// Turns generated ids into text piece by piece: never cuts a UTF-8 character, gives the same text
// in total as decoding all ids at once, keeps the first token's leading space. One thread at a
// time.
class TokenStream {
 public:
  // `prompt_tail`: the last few prompt ids, so that the first generated token decodes in its place.
  TokenStream(const Tokenizer& tokenizer, std::span<const int64_t> prompt_tail,
              bool skip_special_tokens);
  ~TokenStream();
  TokenStream(const TokenStream&) = delete;
  TokenStream& operator=(const TokenStream&) = delete;

  // The text that is certain now; may be empty.
  std::string Put(int64_t id);
  // What is left at the end (a cut character becomes U+FFFD).
  std::string Finish();

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
