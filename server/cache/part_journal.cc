#include "server/cache/part_journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "absl/strings/str_format.h"
#include "server/base/file.h"
#include "server/base/status.h"

namespace modeld {
namespace {

using nlohmann::json;

// Room for one of the two journals of a file: 1,000 ranges and more.
constexpr size_t kPlaceBytes = 64 << 10;
constexpr int kPlaces = 2;
// "<sequence> <length> <checksum>\n", all hexadecimal.
constexpr size_t kHeaderBytes = 16 + 1 + 8 + 1 + 16 + 1;
constexpr int64_t kJournalBytesMax = 4 << 20;

// FNV-1a: it tells a torn write from a whole one, no more.
uint64_t Checksum(std::string_view text) {
  uint64_t sum = 0xcbf29ce484222325;
  for (const char c : text) sum = (sum ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return sum;
}

json RangesToJson(const std::vector<ByteRange>& ranges) {
  json out = json::array();
  for (const ByteRange& range : ranges) out.push_back({range.begin, range.end});
  return out;
}

std::vector<ByteRange> RangesFromJson(const json& value) {
  std::vector<ByteRange> out;
  for (const json& pair : value) {
    out.push_back({pair.at(0).get<int64_t>(), pair.at(1).get<int64_t>()});
  }
  return out;
}

bool AreSound(const std::vector<ByteRange>& ranges, int64_t size_bytes) {
  int64_t at = 0;
  for (const ByteRange& range : ranges) {
    if (range.begin < at || range.end <= range.begin || range.end > size_bytes) return false;
    at = range.end;
  }
  return true;
}

json DigestToJson(const PartJournal::DigestState& digest) {
  return {{"state", digest.state}, {"offset", digest.offset}};
}

bool IsSound(const PartJournal::DigestState& digest, int64_t size_bytes) {
  return digest.offset >= 0 && digest.offset <= size_bytes;
}

std::string ToText(const PartJournal& journal, size_t ranges_max) {
  const auto first = [&](const std::vector<ByteRange>& ranges) {
    return RangesToJson({ranges.begin(), ranges.begin() + std::min(ranges.size(), ranges_max)});
  };
  return json{{"version", 1},
              {"blob", journal.blob},
              {"size", journal.size_bytes},
              {"done", first(journal.done)},
              {"durable", first(journal.durable)},
              {"boot_id", journal.boot_id},
              {"sha256_state", journal.digest.state},
              {"sha256_offset", journal.digest.offset},
              {"durable_sha256", DigestToJson(journal.durable_digest)}}
      .dump();
}

absl::StatusOr<PartJournal> FromText(std::string_view text) {
  try {
    const json value = json::parse(text);
    PartJournal journal;
    journal.blob = value.at("blob").get<std::string>();
    journal.size_bytes = value.at("size").get<int64_t>();
    journal.done = RangesFromJson(value.at("done"));
    journal.durable = RangesFromJson(value.at("durable"));
    journal.boot_id = value.at("boot_id").get<std::string>();
    journal.digest.state = value.at("sha256_state").get<std::string>();
    journal.digest.offset = value.at("sha256_offset").get<int64_t>();
    if (value.contains("durable_sha256")) {
      const json& durable = value.at("durable_sha256");
      journal.durable_digest.state = durable.at("state").get<std::string>();
      journal.durable_digest.offset = durable.at("offset").get<int64_t>();
    }
    const bool sound = value.at("version") == 1 && AreSound(journal.done, journal.size_bytes) &&
                       AreSound(journal.durable, journal.size_bytes) &&
                       IsSound(journal.digest, journal.size_bytes) &&
                       IsSound(journal.durable_digest, journal.size_bytes);
    if (sound) return journal;
  } catch (const json::exception&) {
    // The same answer as for one that makes no sense.
  }
  return absl::DataLossError("the journal is broken");
}

struct Place {
  uint64_t sequence = 0;
  std::string_view text;
};

// What lies in one place of `file`; nothing when it is not whole.
std::optional<Place> PlaceIn(std::string_view file, int index) {
  const size_t begin = static_cast<size_t>(index) * kPlaceBytes;
  if (file.size() < begin + kHeaderBytes) return std::nullopt;
  const std::string_view header = file.substr(begin, kHeaderBytes);
  const auto number = [&](size_t at, size_t digits) {
    uint64_t value = 0;
    const char* const end = header.data() + at + digits;
    const auto [stop, error] = std::from_chars(header.data() + at, end, value, 16);
    return error == std::errc() && stop == end ? std::optional(value) : std::nullopt;
  };
  const auto sequence = number(0, 16);
  const auto length = number(17, 8);
  const auto checksum = number(26, 16);
  if (!sequence || !length || !checksum || header.back() != '\n') return std::nullopt;
  const std::string_view text = file.substr(begin + kHeaderBytes);
  if (*length > text.size() || *length > kPlaceBytes) return std::nullopt;
  if (Checksum(text.substr(0, *length)) != *checksum) return std::nullopt;
  return Place{*sequence, text.substr(0, *length)};
}

std::optional<Place> NewestIn(std::string_view file) {
  std::optional<Place> newest;
  for (int index = 0; index < kPlaces; ++index) {
    const std::optional<Place> place = PlaceIn(file, index);
    if (place && (!newest || place->sequence > newest->sequence)) newest = place;
  }
  return newest;
}

}  // namespace

bool PartJournal::OfThisBoot() const { return !boot_id.empty() && boot_id == BootId(); }

const std::vector<ByteRange>& PartJournal::Trusted() const { return OfThisBoot() ? done : durable; }

const PartJournal::DigestState& PartJournal::TrustedDigest() const {
  return OfThisBoot() ? digest : durable_digest;
}

absl::Status JournalFile::Open() {
  ASSIGN_OR_RETURN(fd_, OpenFile(path_, O_RDWR | O_CREAT | O_NOFOLLOW, 0666));
  ASSIGN_OR_RETURN(const std::string file, ReadFile(path_, kJournalBytesMax));
  const std::optional<Place> newest = NewestIn(file);
  sequence_ = newest ? newest->sequence : 0;
  // Nothing of what is no journal may be taken for one later.
  if (!newest && ftruncate(fd_.get(), 0) != 0) return FileError(errno, "truncate", path_);
  return absl::OkStatus();
}

absl::Status JournalFile::Write(const PartJournal& journal, JournalWrite mode) {
  if (!fd_.valid()) RETURN_IF_ERROR(Open());
  size_t ranges_max = std::max(journal.done.size(), journal.durable.size());
  std::string text = ToText(journal, ranges_max);
  while (text.size() + kHeaderBytes > kPlaceBytes && ranges_max > 0) {
    ranges_max /= 2;
    text = ToText(journal, ranges_max);
  }
  const uint64_t sequence = sequence_ + 1;
  text = absl::StrFormat("%016x %08x %016x\n", sequence, text.size(), Checksum(text)) + text;
  const auto offset = static_cast<int64_t>(sequence % kPlaces * kPlaceBytes);
  RETURN_IF_ERROR(WriteAt(fd_.get(), text, offset, path_));
  sequence_ = sequence;
  if (mode == JournalWrite::kQuick) return absl::OkStatus();
  if (fdatasync(fd_.get()) != 0) return FileError(errno, "fdatasync", path_);
  if (name_synced_) return absl::OkStatus();
  RETURN_IF_ERROR(SyncDirectory(std::filesystem::path(path_).parent_path().string()));
  name_synced_ = true;
  return absl::OkStatus();
}

void JournalFile::Remove() {
  unlink(path_.c_str());
  fd_.Reset();
  name_synced_ = false;
}

absl::Status WritePartJournal(const std::string& path, const PartJournal& journal,
                              JournalWrite mode) {
  return JournalFile(path).Write(journal, mode);
}

absl::StatusOr<PartJournal> ReadPartJournal(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string file, ReadFile(path, kJournalBytesMax));
  // One that an earlier version wrote is the text alone.
  const std::optional<Place> newest =
      file.starts_with("{") ? Place{0, std::string_view(file)} : NewestIn(file);
  absl::StatusOr<PartJournal> journal =
      newest ? FromText(newest->text) : absl::DataLossError("the journal is broken");
  if (!journal.ok()) return WithContext(journal.status(), path);
  return journal;
}

const std::string& BootId() {
  static const std::string boot_id = [] {
    const absl::StatusOr<std::string> id = ReadFile("/proc/sys/kernel/random/boot_id");
    return id.ok() ? id->substr(0, 36) : "";
  }();
  return boot_id;
}

}  // namespace modeld
