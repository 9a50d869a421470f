#include <algorithm>
#include <utility>

#include "server/engine/text/tokenizer.h"

namespace modeld {
namespace {

constexpr std::string_view kReplacement = "\uFFFD";

// A character has at most four bytes, so at most this many tokens can hold a part of one.
constexpr size_t kUnfinishedMax = 3;

// "<0xE6>" stands for one byte in vocabularies with byte fallback.
bool IsByteToken(std::string_view spelling) {
  return spelling.size() == 6 && spelling.starts_with("<0x") && spelling.ends_with('>');
}

}  // namespace

// Text is decoded in a window of ids: those before `given` are the context, whose text went out
// already.
struct TokenStream::Rep {
  const Tokenizer& tokenizer;
  const bool skip_special_tokens;
  std::vector<int64_t> window;
  size_t given = 0;
  std::string given_text;  // what window[0, given) decodes to

  std::string Decode(size_t begin, size_t end) const {
    // Every id was checked by Put(), so that a failure is a defect; its text is then left out.
    return tokenizer.Decode(std::span(window).subspan(begin, end - begin), skip_special_tokens)
        .value_or("");
  }

  // The text of window[given, end), where `text` is that of window[0, end).
  std::string NewText(const std::string& text, size_t end) const {
    if (text.starts_with(given_text)) return text.substr(given_text.size());
    // Bytes that are no character change how a byte-fallback decoder reads the ones before them.
    return Decode(given, end);
  }

  // Counts window[0, end) as given; keeps window[begin, end) as the context.
  void Advance(size_t begin, size_t end) {
    window.erase(window.begin(), window.begin() + static_cast<std::ptrdiff_t>(begin));
    given = end - begin;
    given_text = Decode(0, given);
  }

  // Whether the window ends in "<0xE6>" tokens whose bytes are whole characters: a U+FFFD at the
  // end is then one that the model wrote. A byte-fallback decoder reads a run of such tokens as a
  // whole, and gives U+FFFD, of three bytes, for each when that fails.
  bool EndsInWholeByteRun() const {
    size_t begin = window.size();
    while (begin > 0 && IsByteToken(tokenizer.TokenSpelling(window[begin - 1]))) --begin;
    const size_t bytes = window.size() - begin;
    return bytes > 0 && Decode(begin, window.size()).size() <= bytes;
  }

  // Gives out tokens that cannot be part of an unfinished character although the text, of all of
  // the window, ends in U+FFFD: the model wrote that character, or bytes that are none.
  std::string PutReplacements(const std::string& text) {
    for (size_t end = window.size() - kUnfinishedMax; end > given; --end) {
      const std::string head = Decode(0, end);
      if (head + Decode(end, window.size()) != text) continue;
      std::string piece = NewText(head, end);
      Advance(end - 1, end);
      return piece;
    }
    return "";
  }
};

TokenStream::TokenStream(const Tokenizer& tokenizer, std::span<const int64_t> prompt_tail,
                         bool skip_special_tokens)
    : rep_(new Rep{.tokenizer = tokenizer, .skip_special_tokens = skip_special_tokens}) {
  for (const int64_t id : prompt_tail) {
    if (!tokenizer.TokenSpelling(id).empty()) rep_->window.push_back(id);
  }
  rep_->given = rep_->window.size();
  rep_->given_text = rep_->Decode(0, rep_->given);
}

TokenStream::~TokenStream() = default;

std::string TokenStream::Put(int64_t id) {
  // A model's table of embeddings may be longer than the vocabulary; such ids have no text.
  if (rep_->tokenizer.TokenSpelling(id).empty()) return "";
  rep_->window.push_back(id);
  const std::string text = rep_->Decode(0, rep_->window.size());
  if (text.ends_with(kReplacement) && !rep_->EndsInWholeByteRun()) {
    if (rep_->window.size() - rep_->given <= kUnfinishedMax) return "";
    return rep_->PutReplacements(text);
  }
  std::string piece = rep_->NewText(text, rep_->window.size());
  if (!piece.empty()) rep_->Advance(rep_->given, rep_->window.size());
  return piece;
}

std::string TokenStream::Finish() {
  const std::string text = rep_->Decode(0, rep_->window.size());
  std::string piece = rep_->NewText(text, rep_->window.size());
  rep_->Advance(rep_->window.size(), rep_->window.size());
  return piece;
}

}  // namespace modeld
