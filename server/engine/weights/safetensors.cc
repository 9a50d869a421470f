#include "server/engine/weights/safetensors.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

using Json = nlohmann::json;

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kHeaderBytesMax = 100'000'000;  // the reference implementation's limit
constexpr size_t kDimensionsMax = 16;
constexpr int kDepthMax = 3;  // header, tensor, shape
// A header of 100,000 tensors has a million; parsed, a value takes up to 100 bytes.
constexpr int64_t kValuesMax = 4 << 20;

struct DtypeSize {
  std::string_view name;
  int64_t bytes;
};
constexpr std::array kDtypes = std::to_array<DtypeSize>({{"BOOL", 1},
                                                         {"U8", 1},
                                                         {"I8", 1},
                                                         {"F8_E5M2", 1},
                                                         {"F8_E4M3", 1},
                                                         {"I16", 2},
                                                         {"U16", 2},
                                                         {"F16", 2},
                                                         {"BF16", 2},
                                                         {"I32", 4},
                                                         {"U32", 4},
                                                         {"F32", 4},
                                                         {"F64", 8},
                                                         {"I64", 8},
                                                         {"U64", 8}});

absl::Status Invalid(std::string_view file, std::string_view what) {
  return Error(Reason::kInvalidRepository, absl::StrFormat("%s: %s", file, what));
}

absl::Status InvalidTensor(std::string_view file, std::string_view tensor, std::string_view what) {
  return Invalid(file, absl::StrFormat("tensor \"%s\" %s", tensor, what));
}

// A header that no honest writer makes; thrown out of the parser's callback.
struct HostileHeader : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// nlohmann keeps the last of equal keys without a word, and nests without a limit.
class KeyWatch {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kDepthMax) throw HostileHeader("the header is nested too deeply");
    if (++values_ > kValuesMax) {
      throw HostileHeader(absl::StrFormat("the header has more than %d values", kValuesMax));
    }
    if (event == Json::parse_event_t::object_start) {
      keys_.resize(depth + 1);
      keys_.back().clear();
    } else if (event == Json::parse_event_t::key) {
      // A key is reported one level below its object's start.
      const auto& name = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(name).second) {
        throw HostileHeader(absl::StrFormat("the header has \"%s\" twice", name));
      }
    } else if (event == Json::parse_event_t::object_end) {
      keys_.pop_back();
      keys_.resize(depth);
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;  // of the objects around the current place
  int64_t values_ = 0;
};

absl::StatusOr<Json> ParseHeaderJson(std::string_view text, std::string_view file) {
  if (!text.starts_with('{')) return Invalid(file, "the header is not a JSON object");
  try {
    return Json::parse(text, KeyWatch());
  } catch (const Json::exception& e) {
    return Invalid(file, absl::StrFormat("the header is not valid JSON: %s", e.what()));
  } catch (const HostileHeader& e) {
    return Invalid(file, e.what());
  }
}

// A non-negative integer that fits; absent otherwise.
std::optional<int64_t> Size(const Json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) return std::nullopt;
  return value.get<int64_t>();
}

// Checks one entry of the header by itself: keys, dtype, and that its length follows from its
// shape.
absl::StatusOr<StoredTensor> ReadTensor(std::string_view file, const std::string& name,
                                        const Json& entry) {
  if (!entry.is_object()) return InvalidTensor(file, name, "is not described by an object");
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string() || shape == entry.end() || !shape->is_array() ||
      offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
    return InvalidTensor(file, name, "lacks a dtype, a shape or two data_offsets");
  }
  StoredTensor tensor;
  tensor.dtype = dtype->get<std::string>();
  const std::optional<int64_t> element_bytes = ElementBytes(tensor.dtype);
  if (!element_bytes) {
    return Error(Reason::kUnsupportedWeights,
                 absl::StrFormat("%s: tensor \"%s\" has the unknown dtype \"%s\"", file, name,
                                 tensor.dtype));
  }
  if (shape->size() > kDimensionsMax) {
    return InvalidTensor(file, name,
                         absl::StrFormat("has %d dimensions, at most %d are allowed", shape->size(),
                                         kDimensionsMax));
  }
  int64_t bytes = *element_bytes;
  for (const Json& dimension : *shape) {
    const auto length = Size(dimension);
    if (!length || __builtin_mul_overflow(bytes, *length, &bytes)) {
      return InvalidTensor(file, name,
                           absl::StrFormat("has the impossible shape %s", shape->dump()));
    }
    tensor.shape.push_back(*length);
  }
  const auto begin = Size((*offsets)[0]);
  const auto end = Size((*offsets)[1]);
  if (!begin || !end || *begin > *end) {
    return InvalidTensor(file, name,
                         absl::StrFormat("has the impossible data_offsets %s", offsets->dump()));
  }
  tensor.begin = *begin;
  tensor.end = *end;
  if (tensor.bytes() != bytes) {
    return InvalidTensor(
        file, name,
        absl::StrFormat("needs %d bytes by its shape, but its data_offsets hold %d", bytes,
                        tensor.bytes()));
  }
  return tensor;
}

// Tensors must fill the data part exactly: each byte belongs to one of them.
absl::Status CheckLayout(std::string_view file, const TensorTable& header) {
  using Entry = std::pair<const std::string, StoredTensor>;
  std::vector<const Entry*> by_offset;
  by_offset.reserve(header.tensors.size());
  for (const Entry& entry : header.tensors) by_offset.push_back(&entry);
  std::sort(by_offset.begin(), by_offset.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  int64_t position = 0;
  for (const Entry* entry : by_offset) {
    const StoredTensor& tensor = entry->second;
    if (tensor.end > header.data_bytes) {
      return InvalidTensor(file, entry->first,
                           absl::StrFormat("ends at byte %d, but the file holds %d bytes of data",
                                           tensor.end, header.data_bytes));
    }
    if (tensor.begin != position) {
      return InvalidTensor(
          file, entry->first,
          absl::StrFormat("begins at byte %d, but the tensor before it ends at %d (%s)",
                          tensor.begin, position, tensor.begin < position ? "overlap" : "hole"));
    }
    position = tensor.end;
  }
  if (position != header.data_bytes) {
    return Invalid(file, absl::StrFormat("the tensors end at byte %d, but the file holds %d bytes "
                                         "of data",
                                         position, header.data_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<int64_t> ElementBytes(std::string_view dtype) {
  const auto* size = std::find_if(kDtypes.begin(), kDtypes.end(),
                                  [&](const DtypeSize& d) { return d.name == dtype; });
  if (size == kDtypes.end()) return std::nullopt;
  return size->bytes;
}

absl::StatusOr<TensorTable> ParseSafetensorsHeader(std::string_view head, std::string_view file,
                                                   std::optional<int64_t> file_bytes) {
  const auto head_bytes = static_cast<int64_t>(head.size());
  if (head_bytes < kLengthBytes) {
    return Invalid(file,
                   absl::StrFormat("has %d bytes, but 8 say how long the header is", head_bytes));
  }
  uint64_t header_bytes = 0;
  for (int i = 0; i < kLengthBytes; ++i) {
    header_bytes |= static_cast<uint64_t>(static_cast<unsigned char>(head[i])) << (8 * i);
  }
  if (header_bytes > static_cast<uint64_t>(kHeaderBytesMax)) {
    return Invalid(file, absl::StrFormat("its header says it has %d bytes, at most %d are allowed",
                                         header_bytes, kHeaderBytesMax));
  }
  const int64_t data_offset = kLengthBytes + static_cast<int64_t>(header_bytes);
  const int64_t available = std::min(head_bytes, file_bytes.value_or(head_bytes));
  if (data_offset > available) {
    return Invalid(file, absl::StrFormat("its header ends at byte %d, but only %d bytes are there",
                                         data_offset, available));
  }
  ASSIGN_OR_RETURN(const Json json, ParseHeaderJson(head.substr(kLengthBytes, header_bytes), file));
  TensorTable header;
  header.data_offset = data_offset;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;  // free text of the writer
    ASSIGN_OR_RETURN(StoredTensor tensor, ReadTensor(file, name, entry));
    header.data_bytes = std::max(header.data_bytes, tensor.end);
    header.tensors.emplace(name, std::move(tensor));
  }
  if (file_bytes) header.data_bytes = *file_bytes - data_offset;
  RETURN_IF_ERROR(CheckLayout(file, header));
  return header;
}

}  // namespace modeld
