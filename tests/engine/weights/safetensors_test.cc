#include "server/engine/weights/safetensors.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "server/engine/weights/weight_file.h"
#include "tests/engine/weights/repository.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

constexpr char kTwo[] =
    R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
    R"("b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]},"__metadata__":{"format":"pt"}})";

absl::StatusOr<TensorTable> Parse(const std::string& json, int64_t data_bytes) {
  const std::string file = SafetensorsBytes(json, data_bytes);
  return ParseSafetensorsHeader(file, "x.safetensors", static_cast<int64_t>(file.size()));
}

TEST(SafetensorsTest, HonestHeaderIsRead) {
  const auto header = Parse(kTwo, 16);

  ASSERT_THAT(header, IsOk());
  ASSERT_EQ(header->tensors.size(), 2U);
  EXPECT_EQ(header->tensors.at("b").dtype, "BF16");
  EXPECT_EQ(header->tensors.at("b").shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(header->tensors.at("b").begin, 8);
  EXPECT_EQ(header->data_bytes, 16);
}

struct Lie {
  const char* name;
  std::string json;
  int64_t data_bytes;
  std::vector<std::string> told;  // what the message must name
};

class LyingHeaderTest : public testing::TestWithParam<Lie> {};

INSTANTIATE_TEST_SUITE_P(
    Headers, LyingHeaderTest,
    testing::Values(
        Lie{"end_beyond_the_file", kTwo, 15, {"\"b\"", "16", "15"}},
        Lie{"bytes_after_the_last_tensor", kTwo, 17, {"16", "17"}},
        Lie{"overlap",
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
            R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
            12,
            {"\"b\"", "4", "8", "overlap"}},
        Lie{"hole",
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
            R"("b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
            16,
            {"\"b\"", "12", "8", "hole"}},
        Lie{"length_of_another_shape",
            R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
            8,
            {"\"a\"", "12", "8"}},
        Lie{"shape_that_overflows",
            R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
            0,
            {"\"a\"", "4294967296"}},
        Lie{"negative_size",
            R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})",
            8,
            {"\"a\"", "-2"}},
        Lie{"offsets_backwards",
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
            8,
            {"\"a\"", "[8,0]"}},
        Lie{"offset_beyond_63_bits",
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})",
            8,
            {"\"a\"", "18446744073709551615"}},
        Lie{"fractional_offset",
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8.5]}})",
            8,
            {"\"a\""}},
        Lie{"same_name_twice",
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
            R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
            8,
            {"\"a\"", "twice"}},
        Lie{"same_key_twice",
            R"({"a":{"dtype":"F32","shape":[9],"shape":[2],"data_offsets":[0,8]}})",
            8,
            {"\"shape\"", "twice"}},
        Lie{"tensor_that_is_no_object", R"({"a":7})", 0, {"\"a\""}},
        Lie{"tensor_without_offsets", R"({"a":{"dtype":"F32","shape":[2]}})", 8, {"\"a\""}},
        Lie{"list_instead_of_object", R"([1,2])", 0, {"JSON object"}},
        Lie{"no_json", R"({"a")", 0, {"JSON"}},
        Lie{"deep_nesting", "{\"a\":" + std::string(100'000, '['), 0, {"nested"}},
        Lie{"too_many_dimensions",
            R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})",
            1,
            {"\"a\"", "17", "16"}}),
    [](const auto& test) { return test.param.name; });

TEST_P(LyingHeaderTest, IsRefusedWithTheTensorAndBothFigures) {
  const Lie& lie = GetParam();

  const auto header = Parse(lie.json, lie.data_bytes);

  EXPECT_THAT(header, HasReasonOf(Reason::kInvalidRepository));
  const std::string message(header.status().message());
  for (const std::string& part : lie.told) {
    EXPECT_NE(message.find(part), std::string::npos) << message << " lacks " << part;
  }
}

TEST(SafetensorsTest, UnknownDtypeIsUnsupported) {
  const auto header = Parse(R"({"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}})", 1);

  EXPECT_THAT(header, HasReasonOf(Reason::kUnsupportedWeights));
}

TEST(SafetensorsTest, HeaderLengthBeyondTheFileIsRefused) {
  std::string file = SafetensorsBytes(kTwo, 16);
  file[2] = 1;  // 65,536 bytes more

  EXPECT_THAT(ParseSafetensorsHeader(file, "x", std::ssize(file)),
              HasReasonOf(Reason::kInvalidRepository));
}

TEST(SafetensorsTest, HeaderLengthAbove100MegabytesIsRefusedUnread) {
  std::string file = SafetensorsBytes(kTwo, 16);
  for (int i = 0; i < 8; ++i) file[i] = '\xff';

  const auto header = ParseSafetensorsHeader(file, "x", std::ssize(file));

  EXPECT_THAT(header, HasReasonOf(Reason::kInvalidRepository));
  EXPECT_NE(header.status().message().find("100000000"), absl::string_view::npos);
}

// Parsed, such a header would take gigabytes.
TEST(SafetensorsTest, HeaderOfManyTinyValuesIsRefused) {
  std::string shape;
  for (int i = 0; i < 5'000'000; ++i) shape += "1,";
  const auto header =
      Parse(R"({"a":{"dtype":"U8","shape":[)" + shape + R"(1],"data_offsets":[0,1]}})", 1);

  EXPECT_THAT(header, HasReasonOf(Reason::kInvalidRepository));
  EXPECT_NE(header.status().message().find("more than 4194304 values"), absl::string_view::npos);
}

TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string file = SafetensorsBytes(kTwo, 16);

  for (size_t length = 0; length < file.size(); ++length) {
    const auto header =
        ParseSafetensorsHeader(file.substr(0, length), "x", static_cast<int64_t>(length));
    EXPECT_THAT(header, HasReasonOf(Reason::kInvalidRepository)) << length;
  }
}

TEST(SafetensorsTest, TruncatedFileOnDiskIsRefused) {
  const TemporaryRepository repository;
  const std::string file = SafetensorsBytes(kTwo, 16);
  repository.Write("model.safetensors", file.substr(0, file.size() - 1));

  EXPECT_THAT(WeightFile::Open(repository.path() + "/model.safetensors", "model.safetensors"),
              HasReasonOf(Reason::kInvalidRepository));
}

TEST(SafetensorsTest, MappedTensorHasTheFilesBytes) {
  const TemporaryRepository repository;
  std::string file = SafetensorsBytes(kTwo, 16);
  file[file.size() - 8] = 'x';  // first byte of b
  repository.Write("m.safetensors", file);

  const auto mapped = WeightFile::Open(repository.path() + "/m.safetensors", "m");

  ASSERT_THAT(mapped, IsOk());
  const StoredTensor& b = (*mapped)->table().tensors.at("b");
  EXPECT_EQ(static_cast<char>(*(*mapped)->data(b)), 'x');
}

// Whatever is in the file: an answer, and what is accepted lies within the file. 20,000 headers,
// each an honest one with a few bytes changed; the seed makes a failure repeatable.
TEST(SafetensorsTest, MutatedHeadersNeverReachOutsideTheFile) {
  std::mt19937 random(20261124);
  const std::string honest = SafetensorsBytes(kTwo, 16);
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string file = honest;
    for (uint32_t change = random() % 4 + 1; change > 0; --change) {
      const size_t at = random() % file.size();
      switch (random() % 4) {
        case 0:
          file[at] = static_cast<char>(random());
          break;
        case 1:
          file[at] = static_cast<char>('0' + random() % 10);
          break;
        case 2:
          file.erase(at, 1 + random() % 3);
          break;
        default:
          file.insert(at, 1, "{}[],:\"019-e."[random() % 13]);
      }
      if (file.empty()) file = honest;
    }

    const auto header = ParseSafetensorsHeader(file, "x", std::ssize(file));

    if (!header.ok()) {
      ASSERT_FALSE(ReasonOf(header.status()).empty()) << header.status();
      continue;
    }
    ++accepted;
    for (const auto& [name, tensor] : header->tensors) {
      ASSERT_GE(tensor.begin, 0);
      ASSERT_LE(header->data_offset + tensor.end, std::ssize(file));
    }
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace modeld
