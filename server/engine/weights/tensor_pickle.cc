#include "server/engine/weights/tensor_pickle.h"

#include <algorithm>
#include <array>
#include <deque>
#include <optional>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

// The pickle of a model of 100,000 tensors has 15 MB and makes 1.5 million values.
constexpr size_t kPickleBytesMax = 16 << 20;
constexpr size_t kValuesMax = 4 << 20;
constexpr size_t kTensorsMax = 1 << 20;
constexpr size_t kDimensionsMax = 16;
constexpr size_t kNameBytesMax = 200;  // of what is shown in errors

constexpr uint8_t kProtocolMax = 5;

enum Opcode : uint8_t {
  kMark = '(',
  kEmptyTuple = ')',
  kStop = '.',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersistentId = 'Q',
  kReduce = 'R',
  kBinUnicode = 'X',
  kBuild = 'b',
  kGlobal = 'c',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kProtocol = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kShortBinUnicode = 0x8c,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

struct OpcodeName {
  uint8_t code;
  std::string_view name;
};
// The opcodes that are refused, by the names that Python's pickletools has for them.
constexpr auto kRefused = std::to_array<OpcodeName>({{'0', "POP"},
                                                     {'1', "POP_MARK"},
                                                     {'2', "DUP"},
                                                     {'B', "BINBYTES"},
                                                     {'C', "SHORT_BINBYTES"},
                                                     {'F', "FLOAT"},
                                                     {'G', "BINFLOAT"},
                                                     {'I', "INT"},
                                                     {'L', "LONG"},
                                                     {'P', "PERSID"},
                                                     {'S', "STRING"},
                                                     {'T', "BINSTRING"},
                                                     {'U', "SHORT_BINSTRING"},
                                                     {'V', "UNICODE"},
                                                     {']', "EMPTY_LIST"},
                                                     {'a', "APPEND"},
                                                     {'d', "DICT"},
                                                     {'e', "APPENDS"},
                                                     {'g', "GET"},
                                                     {'i', "INST"},
                                                     {'l', "LIST"},
                                                     {'o', "OBJ"},
                                                     {'p', "PUT"},
                                                     {0x81, "NEWOBJ"},
                                                     {0x82, "EXT1"},
                                                     {0x83, "EXT2"},
                                                     {0x84, "EXT4"},
                                                     {0x8b, "LONG4"},
                                                     {0x8d, "BINUNICODE8"},
                                                     {0x8e, "BINBYTES8"},
                                                     {0x8f, "EMPTY_SET"},
                                                     {0x90, "ADDITEMS"},
                                                     {0x91, "FROZENSET"},
                                                     {0x92, "NEWOBJ_EX"},
                                                     {0x96, "BYTEARRAY8"},
                                                     {0x97, "NEXT_BUFFER"},
                                                     {0x98, "READONLY_BUFFER"}});

enum class Callable { kNone, kOrderedDict, kRebuildTensor, kRebuildParameter, kStorage };

struct KnownGlobal {
  std::string_view name;
  Callable callable;
  std::string_view dtype;  // of a storage
};
constexpr auto kGlobals = std::to_array<KnownGlobal>(
    {{"collections.OrderedDict", Callable::kOrderedDict, ""},
     {"torch._utils._rebuild_tensor_v2", Callable::kRebuildTensor, ""},
     {"torch._utils._rebuild_parameter", Callable::kRebuildParameter, ""},
     {"torch.BFloat16Storage", Callable::kStorage, "BF16"},
     {"torch.BoolStorage", Callable::kStorage, "BOOL"},
     {"torch.ByteStorage", Callable::kStorage, "U8"},
     {"torch.CharStorage", Callable::kStorage, "I8"},
     {"torch.DoubleStorage", Callable::kStorage, "F64"},
     {"torch.FloatStorage", Callable::kStorage, "F32"},
     {"torch.HalfStorage", Callable::kStorage, "F16"},
     {"torch.IntStorage", Callable::kStorage, "I32"},
     {"torch.LongStorage", Callable::kStorage, "I64"},
     {"torch.ShortStorage", Callable::kStorage, "I16"}});

// Values lie in one array and name each other by their place in it: pickles can make cycles and
// nest as deep as they are long, which owning pointers would not survive.
using Place = uint32_t;

struct Value {
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInt,
    kText,
    kTuple,
    kDict,
    kGlobal,
    kStorage,
    kTensor
  };

  Kind kind = Kind::kNone;
  int64_t number = 0;         // of an integer; the place in kGlobals or among the tensors
  std::string_view text;      // of a string
  std::vector<Place> places;  // of a tuple, of a dictionary's keys and values in turn, or of a
                              // storage: class, key, elements
};

constexpr std::string_view KindName(Value::Kind kind) {
  constexpr auto kNames =
      std::to_array<std::string_view>({"None", "a boolean", "an integer", "a string", "a tuple",
                                       "a dictionary", "a class", "a storage", "a tensor"});
  return kNames[static_cast<size_t>(kind)];
}

std::string Shown(std::string_view text) {
  return absl::CHexEscape(std::string(text.substr(0, kNameBytesMax)));
}

std::string OpcodeText(uint8_t code) {
  const auto* known = std::find_if(kRefused.begin(), kRefused.end(),
                                   [&](const OpcodeName& name) { return name.code == code; });
  if (known != kRefused.end()) return std::string(known->name);
  return absl::StrFormat("0x%02x, which no pickle has", code);
}

class Reader {
 public:
  Reader(std::string_view pickle, std::string_view file) : pickle_(pickle), file_(file) {}

  absl::StatusOr<std::map<std::string, PickledTensor>> Read() {
    while (!is_done_) RETURN_IF_ERROR(Step());
    ASSIGN_OR_RETURN(const Place root, Pop(Value::Kind::kDict));
    std::map<std::string, PickledTensor> tensors;
    const std::vector<Place>& items = values_[root].places;
    for (size_t i = 0; i < items.size(); i += 2) {
      ASSIGN_OR_RETURN(const std::string name, TensorName(values_[items[i]]));
      const Value& value = values_[items[i + 1]];
      if (value.kind != Value::Kind::kTensor) {
        return Invalid(
            absl::StrFormat("\"%s\" is %s, not a tensor", name, std::string(KindName(value.kind))));
      }
      if (!tensors.emplace(name, tensors_[value.number]).second) {
        return Invalid(absl::StrFormat("has the tensor \"%s\" twice", name));
      }
    }
    return tensors;
  }

 private:
  absl::Status Invalid(std::string_view what) const {
    return Error(Reason::kInvalidRepository,
                 absl::StrFormat("%s: the pickle %s (byte %d)", file_, what, position_));
  }

  absl::Status Unsupported(std::string_view what) const {
    return Error(Reason::kUnsupportedWeights,
                 absl::StrFormat("%s: the pickle %s; only tensors are read", file_, what));
  }

  absl::StatusOr<std::string> TensorName(const Value& key) const {
    if (key.kind != Value::Kind::kText) return Invalid("has a key that is no string");
    const bool is_plain =
        std::all_of(key.text.begin(), key.text.end(), [](char c) { return c > ' ' && c <= '~'; });
    if (!is_plain || key.text.empty()) {
      return Invalid(absl::StrFormat("has the strange tensor name \"%s\"", Shown(key.text)));
    }
    return std::string(key.text);
  }

  absl::StatusOr<std::string_view> Take(uint64_t bytes) {
    if (pickle_.size() - position_ < bytes) return Invalid("is cut");
    const std::string_view taken = pickle_.substr(position_, bytes);
    position_ += bytes;
    return taken;
  }

  // A little-endian number.
  absl::StatusOr<uint64_t> TakeNumber(int width) {
    ASSIGN_OR_RETURN(const std::string_view bytes, Take(width));
    uint64_t number = 0;
    for (int i = width - 1; i >= 0; --i) number = number << 8 | static_cast<uint8_t>(bytes[i]);
    return number;
  }

  absl::StatusOr<std::string_view> TakeLine() {
    const size_t end = pickle_.find('\n', position_);
    if (end == std::string_view::npos) return Invalid("is cut");
    const std::string_view line = pickle_.substr(position_, end - position_);
    position_ = end + 1;
    return line;
  }

  absl::Status Push(Value value) {
    if (values_.size() >= kValuesMax) {
      return Invalid(absl::StrFormat("has more than %d values", kValuesMax));
    }
    values_.push_back(std::move(value));
    stack_.push_back(static_cast<Place>(values_.size() - 1));
    return absl::OkStatus();
  }

  absl::Status PushNumber(Value::Kind kind, int64_t number) {
    return Push({.kind = kind, .number = number, .text = {}, .places = {}});
  }

  absl::StatusOr<Place> Pop() {
    const size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() <= floor) return Invalid("takes a value that is not there");
    const Place top = stack_.back();
    stack_.pop_back();
    return top;
  }

  absl::StatusOr<Place> Pop(Value::Kind kind) {
    ASSIGN_OR_RETURN(const Place top, Pop());
    if (values_[top].kind != kind) {
      return Invalid(absl::StrFormat("has %s where it needs %s",
                                     std::string(KindName(values_[top].kind)),
                                     std::string(KindName(kind))));
    }
    return top;
  }

  // The places above the last mark, which goes too.
  absl::StatusOr<std::vector<Place>> PopToMark() {
    if (marks_.empty()) return Invalid("goes back to a mark that is not there");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Place> places(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return places;
  }

  absl::Status Step() {
    ASSIGN_OR_RETURN(const uint64_t code, TakeNumber(1));
    switch (code) {
      case kStop:
        is_done_ = true;
        return absl::OkStatus();
      case kNone:
        return PushNumber(Value::Kind::kNone, 0);
      case kNewTrue:
      case kNewFalse:
        return PushNumber(Value::Kind::kBool, code == kNewTrue ? 1 : 0);
      case kBinInt:
      case kBinInt1:
      case kBinInt2:
      case kLong1:
        return PushInteger(code);
      case kBinUnicode:
      case kShortBinUnicode:
        return PushText(code == kBinUnicode ? 4 : 1);
      case kGlobal:
      case kStackGlobal:
        return PushGlobal(code);
      case kReduce:
        return Reduce();
      case kBuild:
        return Build();
      case kBinPersistentId:
        return PushStorage();
      case kEmptyDict:
        return PushNumber(Value::Kind::kDict, 0);
      case kProtocol:
      case kFrame:
        return SkipFraming(code);
      default:
        return code == kSetItem || code == kSetItems ? SetItems(code) : StepOnStack(code);
    }
  }

  // Opcodes of marks, tuples and the memo.
  absl::Status StepOnStack(uint64_t code) {
    switch (code) {
      case kMark:
        marks_.push_back(stack_.size());
        return absl::OkStatus();
      case kEmptyTuple:
        return PushNumber(Value::Kind::kTuple, 0);
      case kTuple:
      case kTuple1:
      case kTuple2:
      case kTuple3:
        return PushTuple(code);
      case kBinGet:
      case kLongBinGet:
        return Recall(code == kBinGet ? 1 : 4);
      case kBinPut:
      case kLongBinPut:
      case kMemoize:
        return Remember(code);
      default:
        return Unsupported(
            absl::StrCat("uses the opcode ", OpcodeText(static_cast<uint8_t>(code))));
    }
  }

  absl::Status SkipFraming(uint64_t code) {
    if (code == kFrame) return TakeNumber(8).status();
    ASSIGN_OR_RETURN(const uint64_t protocol, TakeNumber(1));
    if (protocol > kProtocolMax) {
      return Unsupported(
          absl::StrFormat("has the protocol %d, of at most %d", protocol, kProtocolMax));
    }
    return absl::OkStatus();
  }

  absl::Status PushInteger(uint64_t code) {
    uint64_t width = code == kBinInt ? 4 : code == kBinInt1 ? 1 : 2;
    if (code == kLong1) {
      ASSIGN_OR_RETURN(width, TakeNumber(1));
      if (width > 8) return Invalid(absl::StrFormat("has an integer of %d bytes", width));
    }
    ASSIGN_OR_RETURN(uint64_t number, TakeNumber(static_cast<int>(width)));
    const bool is_signed = code == kBinInt || code == kLong1;
    if (is_signed && width > 0 && width < 8 && (number >> (8 * width - 1)) != 0) {
      number |= ~uint64_t{0} << (8 * width);
    }
    return PushNumber(Value::Kind::kInt, static_cast<int64_t>(number));
  }

  absl::Status PushText(int length_bytes) {
    ASSIGN_OR_RETURN(const uint64_t length, TakeNumber(length_bytes));
    ASSIGN_OR_RETURN(const std::string_view text, Take(length));
    return Push({.kind = Value::Kind::kText, .number = 0, .text = text, .places = {}});
  }

  absl::Status PushTuple(uint64_t code) {
    Value tuple = {.kind = Value::Kind::kTuple, .number = 0, .text = {}, .places = {}};
    if (code == kTuple) {
      ASSIGN_OR_RETURN(tuple.places, PopToMark());
      return Push(std::move(tuple));
    }
    for (uint64_t i = 0; i <= code - kTuple1; ++i) {
      ASSIGN_OR_RETURN(const Place place, Pop());
      tuple.places.insert(tuple.places.begin(), place);
    }
    return Push(std::move(tuple));
  }

  absl::Status PushGlobal(uint64_t code) {
    std::string_view module;
    std::string_view name;
    if (code == kGlobal) {
      ASSIGN_OR_RETURN(module, TakeLine());
      ASSIGN_OR_RETURN(name, TakeLine());
    } else {
      ASSIGN_OR_RETURN(const Place name_at, Pop(Value::Kind::kText));
      ASSIGN_OR_RETURN(const Place module_at, Pop(Value::Kind::kText));
      module = values_[module_at].text;
      name = values_[name_at].text;
    }
    const std::string full = absl::StrCat(Shown(module), ".", Shown(name));
    const auto* known = std::find_if(kGlobals.begin(), kGlobals.end(),
                                     [&](const KnownGlobal& g) { return g.name == full; });
    if (known == kGlobals.end()) return Unsupported(absl::StrCat("names ", full));
    return PushNumber(Value::Kind::kGlobal, known - kGlobals.begin());
  }

  absl::Status Recall(int index_bytes) {
    ASSIGN_OR_RETURN(const uint64_t index, TakeNumber(index_bytes));
    const auto at = memo_.find(index);
    if (at == memo_.end()) return Invalid(absl::StrFormat("recalls value %d, not kept", index));
    stack_.push_back(at->second);
    return absl::OkStatus();
  }

  absl::Status Remember(uint64_t code) {
    uint64_t index = memo_.size();
    if (code != kMemoize) {
      ASSIGN_OR_RETURN(index, TakeNumber(code == kBinPut ? 1 : 4));
    }
    ASSIGN_OR_RETURN(const Place top, Pop());
    stack_.push_back(top);
    memo_[index] = top;
    if (memo_.size() > kValuesMax) {
      return Invalid(absl::StrFormat("keeps more than %d values", kValuesMax));
    }
    return absl::OkStatus();
  }

  absl::Status SetItems(uint64_t code) {
    std::vector<Place> items;
    if (code == kSetItem) {
      ASSIGN_OR_RETURN(const Place value, Pop());
      ASSIGN_OR_RETURN(const Place key, Pop());
      items = {key, value};
    } else {
      ASSIGN_OR_RETURN(items, PopToMark());
    }
    if (items.size() % 2 != 0) return Invalid("has a dictionary's key without a value");
    ASSIGN_OR_RETURN(const Place dictionary, Pop(Value::Kind::kDict));
    stack_.push_back(dictionary);
    std::vector<Place>& places = values_[dictionary].places;
    places.insert(places.end(), items.begin(), items.end());
    return absl::OkStatus();
  }

  // An OrderedDict's attributes (_metadata) are not needed.
  absl::Status Build() {
    RETURN_IF_ERROR(Pop(Value::Kind::kDict).status());
    ASSIGN_OR_RETURN(const Place object, Pop(Value::Kind::kDict));
    stack_.push_back(object);
    return absl::OkStatus();
  }

  absl::Status Reduce() {
    ASSIGN_OR_RETURN(const Place tuple, Pop(Value::Kind::kTuple));
    ASSIGN_OR_RETURN(const Place callable, Pop(Value::Kind::kGlobal));
    const KnownGlobal& global = kGlobals[values_[callable].number];
    const std::vector<Place> args = values_[tuple].places;
    switch (global.callable) {
      case Callable::kOrderedDict:
        if (!args.empty()) return Invalid("makes an OrderedDict of something");
        return PushNumber(Value::Kind::kDict, 0);
      case Callable::kRebuildTensor:
        return PushTensor(args);
      case Callable::kRebuildParameter:
        // (data, requires_grad, backward_hooks): the parameter is its data.
        if (args.empty() || values_[args[0]].kind != Value::Kind::kTensor) {
          return Invalid("has a parameter without a tensor");
        }
        stack_.push_back(args[0]);
        return absl::OkStatus();
      case Callable::kStorage:
      case Callable::kNone:
        break;
    }
    return Unsupported(absl::StrFormat("calls %s", global.name));
  }

  // ("storage", class, key, device, elements).
  absl::Status PushStorage() {
    ASSIGN_OR_RETURN(const Place id, Pop(Value::Kind::kTuple));
    const std::vector<Place>& parts = values_[id].places;
    const auto is = [&](size_t i, Value::Kind kind) { return values_[parts[i]].kind == kind; };
    if (parts.size() != 5 || !is(0, Value::Kind::kText) || values_[parts[0]].text != "storage" ||
        !is(1, Value::Kind::kGlobal) || !is(2, Value::Kind::kText) || !is(4, Value::Kind::kInt) ||
        kGlobals[values_[parts[1]].number].callable != Callable::kStorage) {
      return Invalid("has a persistent id that is no storage");
    }
    return Push({.kind = Value::Kind::kStorage,
                 .number = 0,
                 .text = {},
                 .places = {parts[1], parts[2], parts[4]}});
  }

  // (storage, first element, shape, strides, ...); what follows is about gradients.
  absl::Status PushTensor(const std::vector<Place>& args) {
    if (args.size() < 4 || values_[args[0]].kind != Value::Kind::kStorage) {
      return Invalid("has a tensor without a storage, offset, shape and strides");
    }
    const std::vector<Place>& storage = values_[args[0]].places;
    PickledTensor tensor;
    tensor.dtype = std::string(kGlobals[values_[storage[0]].number].dtype);
    tensor.storage_key = std::string(values_[storage[1]].text);
    ASSIGN_OR_RETURN(tensor.storage_elements, Size(storage[2]));
    ASSIGN_OR_RETURN(tensor.first_element, Size(args[1]));
    ASSIGN_OR_RETURN(tensor.shape, Sizes(args[2]));
    ASSIGN_OR_RETURN(tensor.strides, Sizes(args[3]));
    if (tensor.shape.size() != tensor.strides.size()) {
      return Invalid(absl::StrFormat("has a tensor with %d dimensions and %d strides",
                                     tensor.shape.size(), tensor.strides.size()));
    }
    if (tensors_.size() >= kTensorsMax) {
      return Invalid(absl::StrFormat("has more than %d tensors", kTensorsMax));
    }
    tensors_.push_back(std::move(tensor));
    return PushNumber(Value::Kind::kTensor, std::ssize(tensors_) - 1);
  }

  absl::StatusOr<int64_t> Size(Place place) const {
    const Value& value = values_[place];
    if (value.kind != Value::Kind::kInt || value.number < 0) {
      return Invalid("has a tensor with a size that is no natural number");
    }
    return value.number;
  }

  absl::StatusOr<std::vector<int64_t>> Sizes(Place tuple) const {
    const Value& value = values_[tuple];
    if (value.kind != Value::Kind::kTuple || value.places.size() > kDimensionsMax) {
      return Invalid(
          absl::StrFormat("has a tensor whose shape or strides are no tuple of at most "
                          "%d numbers",
                          kDimensionsMax));
    }
    std::vector<int64_t> sizes;
    for (const Place place : value.places) {
      ASSIGN_OR_RETURN(const int64_t size, Size(place));
      sizes.push_back(size);
    }
    return sizes;
  }

  const std::string_view pickle_;
  const std::string_view file_;
  size_t position_ = 0;
  bool is_done_ = false;
  std::deque<Value> values_;
  std::vector<Place> stack_;
  std::vector<size_t> marks_;  // lengths of stack_
  std::unordered_map<uint64_t, Place> memo_;
  std::vector<PickledTensor> tensors_;
};

}  // namespace

absl::StatusOr<std::map<std::string, PickledTensor>> ReadTensorPickle(std::string_view pickle,
                                                                      std::string_view file) {
  if (pickle.size() > kPickleBytesMax) {
    return Error(Reason::kInvalidRepository,
                 absl::StrFormat("%s: the pickle has %d bytes, at most %d are read", file,
                                 pickle.size(), kPickleBytesMax));
  }
  return Reader(pickle, file).Read();
}

}  // namespace modeld
