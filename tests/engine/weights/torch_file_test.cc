#include "server/engine/weights/torch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "server/engine/weights/tensor_pickle.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

std::string ReadTorchFile(const std::string& name) {
  std::ifstream stream(std::string(MODELD_TEST_DATA) + "/torch_files/" + name, std::ios::binary);
  EXPECT_TRUE(stream) << name;
  return {std::istreambuf_iterator<char>(stream), {}};
}

// The elements row by row, in hex.
std::string Elements(const std::string& file, const StoredTensor& tensor) {
  if (tensor.strides.empty())
    return absl::BytesToHexString(file.substr(tensor.begin, tensor.bytes()));
  const int64_t element_bytes = ElementBytes(tensor.dtype).value();
  std::string rows;
  const auto walk = [&](const auto& self, size_t dimension, int64_t at) -> void {
    if (dimension == tensor.shape.size()) {
      rows += file.substr(tensor.begin + at * element_bytes, element_bytes);
      return;
    }
    for (int64_t i = 0; i < tensor.shape[dimension]; ++i) {
      self(self, dimension + 1, at + i * tensor.strides[dimension]);
    }
  };
  walk(walk, 0, 0);
  return absl::BytesToHexString(rows);
}

class HonestTorchFileTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Files, HonestTorchFileTest,
                         testing::Values("types", "views", "module", "protocol4"),
                         [](const auto& test) { return test.param; });

TEST_P(HonestTorchFileTest, HasTheTensorsThatTorchSaved) {
  const std::string file = ReadTorchFile(GetParam() + ".bin");
  const Json goldens = Json::parse(ReadTorchFile("goldens.json")).at(GetParam());

  const auto table = ParseTorchFile(file, "pytorch_model.bin");

  ASSERT_THAT(table, IsOk());
  ASSERT_EQ(table->tensors.size(), goldens.size());
  for (const auto& [name, golden] : goldens.items()) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(table->tensors.contains(name));
    const StoredTensor& tensor = table->tensors.at(name);
    EXPECT_EQ(tensor.dtype, golden.at("dtype").get<std::string>());
    EXPECT_EQ(tensor.shape, golden.at("shape").get<std::vector<int64_t>>());
    EXPECT_EQ(Elements(file, tensor), golden.at("hex").get<std::string>());
  }
}

struct Refusal {
  const char* file;
  Reason reason;
  const char* told;  // what the message must name
};

class RefusedTorchFileTest : public testing::TestWithParam<Refusal> {};

constexpr Reason kUnsupported = Reason::kUnsupportedWeights;
constexpr Reason kInvalid = Reason::kInvalidRepository;

INSTANTIATE_TEST_SUITE_P(
    Files, RefusedTorchFileTest,
    testing::Values(Refusal{"runs_something", kUnsupported, "__builtin__.print"},
                    Refusal{"list", kUnsupported, "EMPTY_LIST"},
                    Refusal{"list_at_the_top", kUnsupported, "EMPTY_LIST"},
                    Refusal{"float", kUnsupported, "BINFLOAT"},
                    Refusal{"number", kInvalid, "\"a\" is an integer"},
                    Refusal{"bytes", kUnsupported, "_codecs.encode"},
                    Refusal{"set", kUnsupported, "__builtin__.set"},
                    Refusal{"nested", kInvalid, "\"state_dict\" is a dictionary"},
                    Refusal{"key_is_no_text", kInvalid, "no string"},
                    Refusal{"module", kUnsupported, "torch.nn.modules.linear.Linear"},
                    Refusal{"sparse", kUnsupported, "torch._utils._rebuild_sparse_tensor"},
                    Refusal{"complex", kUnsupported, "torch.ComplexFloatStorage"},
                    Refusal{"float8", kUnsupported, "torch._utils._rebuild_tensor_v3"},
                    Refusal{"quantized_dtype", kUnsupported, "torch.float32"},
                    Refusal{"repeated", kInvalid, "1000000 elements"},
                    Refusal{"object", kUnsupported, "collections.Counter"},
                    Refusal{"legacy", kUnsupported, "before 1.6"},
                    Refusal{"big_endian", kUnsupported, "little-endian"},
                    Refusal{"short_storage", kInvalid, "12 bytes"},
                    Refusal{"cut_pickle", kInvalid, "cut"},
                    Refusal{"plain_pickle", kUnsupported, "the opcode DICT"},
                    Refusal{"compressed", kUnsupported, "compressed"},
                    Refusal{"other_zip", kInvalid, "data.pkl"}),
    [](const auto& test) { return std::string(test.param.file); });

TEST_P(RefusedTorchFileTest, NamesWhatItWillNotRead) {
  const auto table =
      ParseTorchFile(ReadTorchFile(std::string("refused/") + GetParam().file + ".bin"), "x.bin");

  EXPECT_THAT(table, HasReasonOf(GetParam().reason));
  EXPECT_THAT(std::string(table.status().message()), HasSubstr(GetParam().told));
  EXPECT_THAT(std::string(table.status().message()), HasSubstr("x.bin"));
}

TEST(TorchFileTest, EveryTruncationIsRefused) {
  const std::string file = ReadTorchFile("views.bin");
  for (size_t length = 0; length < file.size(); length += 7) {
    EXPECT_FALSE(ParseTorchFile(file.substr(0, length), "x").ok()) << length;
  }
}

absl::Status PickleStatus(const std::string& pickle) {
  return ReadTensorPickle(pickle, "x.bin").status();
}

// Values name each other by place; owning pointers would recurse or leak here.
TEST(TensorPickleTest, CyclesAndDeepNestingAreOnlyRefused) {
  // A dictionary that is its own value.
  EXPECT_THAT(PickleStatus(std::string("\x80\x02}q\0X\x01\0\0\0ah\0s.", 15)),
              HasReasonOf(kInvalid));
  EXPECT_THAT(PickleStatus(")" + std::string(1 << 20, '\x85') + "."), HasReasonOf(kInvalid));
}

TEST(TensorPickleTest, ManyValuesInFewBytesEndInAnError) {
  const std::string many(15 << 20, '}');

  EXPECT_THAT(PickleStatus(many), HasReasonOf(kInvalid));
  EXPECT_THAT(std::string(PickleStatus(many).message()), HasSubstr("4194304"));
  EXPECT_THAT(PickleStatus("}" + std::string(15 << 20, '\x94')), HasReasonOf(kInvalid));
  EXPECT_THAT(PickleStatus(std::string(15 << 20, '(')), HasReasonOf(kInvalid));
  EXPECT_THAT(std::string(PickleStatus(std::string(17 << 20, '(')).message()),
              HasSubstr("at most 16777216"));
}

TEST(TensorPickleTest, ValuesThatAreNotThereAreMissed) {
  for (const std::string& pickle :
       {std::string(""), std::string("."), std::string("t."), std::string("R."), std::string("(s."),
        std::string("}(s."), std::string("h\x05."), std::string("Q."), std::string("\x93."),
        std::string("X\xff\xff\xff\xff."), std::string("cnothing"), std::string("\x8a\xff.")}) {
    EXPECT_THAT(PickleStatus(pickle), HasReasonOf(kInvalid)) << absl::CHexEscape(pickle);
  }
}

TEST(TensorPickleTest, UnknownOpcodeAndProtocolAreNamed) {
  EXPECT_THAT(std::string(PickleStatus("\xfe").message()), HasSubstr("0xfe"));
  EXPECT_THAT(std::string(PickleStatus("\x80\x09").message()), HasSubstr("protocol 9"));
}

}  // namespace
}  // namespace modeld
