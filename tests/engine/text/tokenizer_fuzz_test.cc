#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/engine/text/tokenizer.h"
#include "tests/engine/text/text_goldens.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using Json = nlohmann::json;

constexpr size_t kStrings = 10'000;
constexpr size_t kBlock = 100;  // strings to a hash

std::string ReadTokenizerData(const std::string& path) { return ReadTextData("../" + path); }

// SplitMix64, as tests/goldens/make_tokenizers.py has it.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Below(uint64_t bound) {
    state_ += 0x9E3779B97F4A7C15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return (z ^ (z >> 31)) % bound;
  }

 private:
  uint64_t state_;
};

std::string Utf8(uint32_t code_point) {
  const auto low = [](uint32_t bits) { return static_cast<char>(0x80 | (bits & 0x3f)); };
  const uint32_t c = code_point;
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), low(c)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), low(c >> 6), low(c)};
  return {static_cast<char>(0xf0 | c >> 18), low(c >> 12), low(c >> 6), low(c)};
}

std::vector<std::string> Characters(const std::string& text) {
  std::vector<std::string> characters;
  for (const char c : text) {
    const bool continues = (static_cast<uint8_t>(c) & 0xc0) == 0x80;
    if (continues) {
      characters.back() += c;
    } else {
      characters.emplace_back(1, c);
    }
  }
  return characters;
}

// The strings that the goldens were made of.
const std::vector<std::string>& Strings() {
  static const std::vector<std::string>& strings = *new auto([] {
    const Json parts = Json::parse(ReadTokenizerData("tokenizers/parts.json"));
    const std::vector<std::string> corpus = Characters(parts.at("corpus"));
    const std::vector<std::string> pool = parts.at("pool");
    const std::vector<std::pair<uint32_t, uint32_t>> ranges = parts.at("ranges");
    Random random(parts.at("seed"));
    std::vector<std::string> made(kStrings);
    for (std::string& text : made) {
      for (uint64_t left = random.Below(13); left > 0; --left) {
        const uint64_t kind = random.Below(10);
        if (kind < 5) {
          const size_t begin = random.Below(corpus.size());
          const size_t end = std::min(corpus.size(), begin + 1 + random.Below(16));
          for (size_t i = begin; i < end; ++i) text += corpus[i];
        } else if (kind < 8) {
          text += pool[random.Below(pool.size())];
        } else {
          const auto [first, last] = ranges[random.Below(ranges.size())];
          text += Utf8(first + static_cast<uint32_t>(random.Below(last - first)));
        }
      }
    }
    return made;
  }());
  return strings;
}

void AddIds(const std::vector<int64_t>& ids, TextHash& hash) {
  const auto add = [&](int64_t id) {
    for (int shift = 0; shift < 32; shift += 8) hash.Add(static_cast<char>(id >> shift));
  };
  for (const int64_t id : ids) add(id);
  add(0xffffffff);
}

const Json& Families() {
  static const Json& families =
      *new Json(Json::parse(ReadTokenizerData("tokenizers/families.json")));
  return families;
}

std::vector<std::string> FamilyNames() {
  std::vector<std::string> names;
  for (const Json& family : Families()) names.push_back(family.at("name"));
  return names;
}

const Json& Family(const std::string& name) {
  return *std::find_if(Families().begin(), Families().end(),
                       [&](const Json& family) { return family.at("name") == name; });
}

std::unique_ptr<Tokenizer> LoadFamily(const Json& family) {
  TemporarySnapshot snapshot;
  for (const auto& [name, path] : family.at("files").items()) {
    snapshot.Write(name, ReadTokenizerData(path));
  }
  for (const auto& [name, content] : family.at("json").items()) {
    snapshot.Write(name, content.dump());
  }
  auto tokenizer = Tokenizer::Load(snapshot.path());
  EXPECT_THAT(tokenizer, IsOk());
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

class TokenizerFuzzTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Families, TokenizerFuzzTest, testing::ValuesIn(FamilyNames()),
                         [](const auto& test) { return test.param; });

TEST_P(TokenizerFuzzTest, IdsAndTextAreThoseOfTransformers) {
  const Json& family = Family(GetParam());
  const auto tokenizer = LoadFamily(family);
  ASSERT_NE(tokenizer, nullptr);
  for (size_t begin = 0; begin < kStrings; begin += kBlock) {
    TextHash plain;
    TextHash whole;
    TextHash text;
    for (size_t i = begin; i < begin + kBlock; ++i) {
      const auto ids = tokenizer->Encode(Strings()[i], /*add_special_tokens=*/false);
      const auto all_ids = tokenizer->Encode(Strings()[i], /*add_special_tokens=*/true);
      ASSERT_THAT(ids, IsOk());
      ASSERT_THAT(all_ids, IsOk());
      const auto decoded = tokenizer->Decode(*ids, /*skip_special_tokens=*/false);
      ASSERT_THAT(decoded, IsOk());
      AddIds(*ids, plain);
      AddIds(*all_ids, whole);
      text.Add(*decoded + "\xff");
    }
    const size_t block = begin / kBlock;
    ASSERT_EQ(plain.Hex(), family.at("ids")[block].get<std::string>()) << "block " << block;
    ASSERT_EQ(whole.Hex(), family.at("ids_with_special")[block].get<std::string>())
        << "block " << block;
    ASSERT_EQ(text.Hex(), family.at("text")[block].get<std::string>()) << "block " << block;
  }
}

TEST_P(TokenizerFuzzTest, StreamedTextIsTheTextDecodedAtOnce) {
  const auto tokenizer = LoadFamily(Family(GetParam()));
  ASSERT_NE(tokenizer, nullptr);
  for (size_t i = 0; i < kStrings; i += 4) {
    const auto ids = tokenizer->Encode(Strings()[i], /*add_special_tokens=*/true);
    ASSERT_THAT(ids, IsOk());
    const bool skip_special_tokens = i % 8 == 0;
    const auto at_once = tokenizer->Decode(*ids, skip_special_tokens);
    ASSERT_THAT(at_once, IsOk());
    TokenStream stream(*tokenizer, {}, skip_special_tokens);
    std::string streamed;
    for (const int64_t id : *ids) streamed += stream.Put(id);
    streamed += stream.Finish();
    ASSERT_EQ(streamed, *at_once) << "string " << i;
  }
}

}  // namespace
}  // namespace modeld
