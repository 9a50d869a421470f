#include "server/engine/weights/zip_directory.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr std::string_view kLocalHeader = "PK\x03\x04";
constexpr std::string_view kDirectoryHeader = "PK\x01\x02";
constexpr std::string_view kDirectoryEnd = "PK\x05\x06";
constexpr std::string_view kDirectoryEnd64 = "PK\x06\x06";
constexpr std::string_view kLocator64 = "PK\x06\x07";

constexpr int64_t kLocalHeaderBytes = 30;
constexpr int64_t kDirectoryHeaderBytes = 46;
constexpr int64_t kDirectoryEndBytes = 22;
constexpr int64_t kDirectoryEnd64Bytes = 56;
constexpr int64_t kLocator64Bytes = 20;
constexpr int64_t kCommentBytesMax = 65535;
constexpr uint64_t kEntriesMax = 1 << 20;
constexpr uint64_t kNameBytesMax = 1024;
constexpr uint16_t kEncrypted = 1;
constexpr uint16_t kExtraZip64 = 1;

absl::Status Invalid(std::string_view file, std::string_view what) {
  return Error(Reason::kInvalidRepository, absl::StrFormat("%s: %s", file, what));
}

// Reads little-endian numbers out of bytes that it does not own. Outside of them it reads zeros and
// remembers that it did.
class Numbers {
 public:
  explicit Numbers(std::string_view bytes) : bytes_(bytes) {}

  uint64_t At(uint64_t offset, int width) {
    if (offset > bytes_.size() || bytes_.size() - offset < static_cast<size_t>(width)) {
      is_cut_ = true;
      return 0;
    }
    uint64_t number = 0;
    for (int i = width - 1; i >= 0; --i) {
      number = number << 8 | static_cast<uint8_t>(bytes_[offset + i]);
    }
    return number;
  }

  std::string_view Text(uint64_t offset, uint64_t length) {
    if (offset > bytes_.size() || bytes_.size() - offset < length) {
      is_cut_ = true;
      return "";
    }
    return bytes_.substr(offset, length);
  }

  bool is_cut() const { return is_cut_; }

 private:
  const std::string_view bytes_;
  bool is_cut_ = false;
};

struct Directory {
  uint64_t offset = 0;
  uint64_t entries = 0;
};

absl::StatusOr<Directory> FindDirectory(std::string_view archive, std::string_view file) {
  const int64_t size = std::ssize(archive);
  const int64_t searched_from = std::max<int64_t>(0, size - kDirectoryEndBytes - kCommentBytesMax);
  const size_t end = archive.substr(searched_from).rfind(kDirectoryEnd);
  if (end == std::string_view::npos) {
    return Invalid(file, "is neither a zip archive of torch.save nor a known other format");
  }
  const uint64_t end_at = searched_from + end;
  Numbers numbers(archive);
  Directory directory = {.offset = numbers.At(end_at + 16, 4),
                         .entries = numbers.At(end_at + 10, 2)};
  if (end_at >= kLocator64Bytes &&
      numbers.Text(end_at - kLocator64Bytes, kLocator64.size()) == kLocator64) {
    const uint64_t end64_at = numbers.At(end_at - kLocator64Bytes + 8, 8);
    if (numbers.Text(end64_at, kDirectoryEnd64Bytes).substr(0, 4) != kDirectoryEnd64) {
      return Invalid(file, "the zip64 directory is not where its locator says");
    }
    directory = {.offset = numbers.At(end64_at + 48, 8), .entries = numbers.At(end64_at + 32, 8)};
  }
  if (numbers.is_cut()) return Invalid(file, "the zip directory is cut");
  if (directory.entries > kEntriesMax) {
    return Invalid(file, absl::StrFormat("the zip directory has %d entries, at most %d are allowed",
                                         directory.entries, kEntriesMax));
  }
  return directory;
}

// One header of the directory, with the lengths that its zip64 field may replace.
struct DirectoryHeader {
  std::string name;
  uint64_t flags = 0;
  uint64_t method = 0;
  uint64_t bytes = 0;  // as stored
  uint64_t plain_bytes = 0;
  uint64_t local_offset = 0;
  uint64_t next = 0;  // offset of the header after this one
};

// The zip64 field holds, in this order, those numbers that are all ones in the header.
void ReadZip64Field(Numbers& numbers, uint64_t at, uint64_t end, DirectoryHeader& header) {
  constexpr uint64_t kAllOnes = 0xffffffff;
  while (at + 4 <= end) {
    const uint64_t id = numbers.At(at, 2);
    const uint64_t length = numbers.At(at + 2, 2);
    at += 4;
    if (id == kExtraZip64) {
      for (uint64_t* number : {&header.plain_bytes, &header.bytes, &header.local_offset}) {
        if (*number != kAllOnes) continue;
        *number = numbers.At(at, 8);
        at += 8;
      }
      return;
    }
    at += length;
  }
}

absl::StatusOr<DirectoryHeader> ReadDirectoryHeader(Numbers& numbers, uint64_t at,
                                                    std::string_view file) {
  if (numbers.Text(at, kDirectoryHeaderBytes).substr(0, 4) != kDirectoryHeader) {
    return Invalid(file, absl::StrFormat("the zip directory is broken at byte %d", at));
  }
  const uint64_t name_bytes = numbers.At(at + 28, 2);
  if (name_bytes > kNameBytesMax) {
    return Invalid(file, absl::StrFormat("an entry's name has %d bytes, at most %d are allowed",
                                         name_bytes, kNameBytesMax));
  }
  const uint64_t extra_bytes = numbers.At(at + 30, 2);
  const uint64_t name_at = at + kDirectoryHeaderBytes;
  DirectoryHeader header = {.name = std::string(numbers.Text(name_at, name_bytes)),
                            .flags = numbers.At(at + 8, 2),
                            .method = numbers.At(at + 10, 2),
                            .bytes = numbers.At(at + 20, 4),
                            .plain_bytes = numbers.At(at + 24, 4),
                            .local_offset = numbers.At(at + 42, 4),
                            .next = name_at + name_bytes + extra_bytes + numbers.At(at + 32, 2)};
  const uint64_t extra_at = name_at + name_bytes;
  ReadZip64Field(numbers, extra_at, extra_at + extra_bytes, header);
  if (numbers.is_cut()) return Invalid(file, "the zip directory is cut");
  return header;
}

absl::StatusOr<ZipEntry> Locate(std::string_view archive, const DirectoryHeader& header,
                                std::string_view file) {
  const std::string name = absl::CHexEscape(header.name);
  if (header.method != 0 || header.bytes != header.plain_bytes) {
    return Error(Reason::kUnsupportedWeights,
                 absl::StrFormat("%s: entry \"%s\" is compressed; torch.save stores without "
                                 "compression",
                                 file, name));
  }
  if ((header.flags & kEncrypted) != 0) {
    return Error(Reason::kUnsupportedWeights,
                 absl::StrFormat("%s: entry \"%s\" is encrypted", file, name));
  }
  Numbers numbers(archive);
  // Name and extra field of the entry's own header may have other lengths than in the directory.
  const std::string_view local = numbers.Text(header.local_offset, kLocalHeaderBytes);
  if (local.substr(0, 4) != kLocalHeader) {
    return Invalid(file,
                   absl::StrFormat("entry \"%s\" is not at byte %d", name, header.local_offset));
  }
  const uint64_t offset = header.local_offset + kLocalHeaderBytes +
                          numbers.At(header.local_offset + 26, 2) +
                          numbers.At(header.local_offset + 28, 2);
  if (offset > archive.size() || archive.size() - offset < header.bytes) {
    return Invalid(file, absl::StrFormat("entry \"%s\" has %d bytes at byte %d, but the file has "
                                         "only %d",
                                         name, header.bytes, offset, archive.size()));
  }
  return ZipEntry{.offset = static_cast<int64_t>(offset),
                  .bytes = static_cast<int64_t>(header.bytes)};
}

}  // namespace

absl::StatusOr<ZipDirectory> ReadZipDirectory(std::string_view archive, std::string_view file) {
  ASSIGN_OR_RETURN(const Directory found, FindDirectory(archive, file));
  ZipDirectory directory;
  Numbers numbers(archive);
  uint64_t at = found.offset;
  for (uint64_t i = 0; i < found.entries; ++i) {
    ASSIGN_OR_RETURN(const DirectoryHeader header, ReadDirectoryHeader(numbers, at, file));
    ASSIGN_OR_RETURN(const ZipEntry entry, Locate(archive, header, file));
    if (!directory.emplace(header.name, entry).second) {
      return Invalid(file, absl::StrFormat("the zip directory has \"%s\" twice",
                                           absl::CHexEscape(header.name)));
    }
    at = header.next;
  }
  return directory;
}

}  // namespace modeld
