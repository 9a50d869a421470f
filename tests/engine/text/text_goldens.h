// The goldens of tests/goldens/make_text.py, and snapshots of a repository for one test.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json.hpp"

namespace modeld {

inline std::string TextDataPath(const std::string& name) {
  return std::string(MODELD_TEXT_DATA) + "/" + name;
}

inline std::string ReadTextData(const std::string& name) {
  std::ifstream file(TextDataPath(name), std::ios::binary);
  EXPECT_TRUE(file.is_open()) << TextDataPath(name);
  return {std::istreambuf_iterator<char>(file), {}};
}

// What transformers makes of one text with one tokenizer.
struct TextGolden {
  std::string text;
  std::vector<int64_t> ids;
  std::vector<int64_t> ids_with_special;
  std::string text_of_ids;
  std::string text_without_special;
};

inline std::vector<TextGolden> ReadTextGoldens(const std::string& tokenizer) {
  std::vector<TextGolden> goldens;
  for (const auto& item : nlohmann::json::parse(ReadTextData(tokenizer + "/goldens.json"))) {
    goldens.push_back({.text = item.at("text"),
                       .ids = item.at("ids"),
                       .ids_with_special = item.at("ids_with_special"),
                       .text_of_ids = item.at("text_of_ids"),
                       .text_without_special = item.at("text_without_special")});
  }
  return goldens;
}

inline std::vector<std::string> TextTokenizers() {
  return {"byte_level_bpe", "sentencepiece_bpe", "metaspace_bpe", "wordpiece", "unigram"};
}

// FNV-1a, which stands for what is too long to be kept.
class TextHash {
 public:
  void Add(char byte) { value_ = (value_ ^ static_cast<uint8_t>(byte)) * 0x100000001B3; }
  void Add(std::string_view text) {
    for (const char c : text) Add(c);
  }
  std::string Hex() const {
    std::string hex;
    for (int shift = 60; shift >= 0; shift -= 4) hex += "0123456789abcdef"[value_ >> shift & 15];
    return hex;
  }

 private:
  uint64_t value_ = 0xCBF29CE484222325;
};

// A folder of its own that goes with the object.
class TemporarySnapshot {
 public:
  TemporarySnapshot() {
    std::string pattern = ::testing::TempDir() + "/modeld-text-XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TemporarySnapshot() { std::filesystem::remove_all(path_); }
  TemporarySnapshot(const TemporarySnapshot&) = delete;
  TemporarySnapshot& operator=(const TemporarySnapshot&) = delete;

  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << content;
  }
  void Copy(const std::string& data, const std::string& name) const {
    Write(name, ReadTextData(data));
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace modeld
