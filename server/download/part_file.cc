#include "server/download/part_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/log.h"
#include "server/base/status.h"

namespace modeld {
namespace {

// Aligned to pages, so that O_DIRECT stays possible.
constexpr int64_t kBufferBytes = 1 << 20;
constexpr size_t kBufferAlignment = 4096;
static_assert(PartFile::kJournalStep >= kBufferBytes);

// After so many new bytes, or so much time with at least one journal step of them, they are synced.
// More often costs throughput on disks, less often costs more of a download when the power fails.
constexpr int64_t kSyncBytes = 64 << 20;
constexpr std::chrono::seconds kSyncPeriod{5};

std::vector<ByteRange> Prefix(int64_t end) {
  if (end == 0) return {};
  return {{0, end}};
}

// In-order writing has one range; of what several connections left, the part before the first hole.
int64_t PrefixEnd(const std::vector<ByteRange>& ranges) {
  return ranges.empty() || ranges.front().begin != 0 ? 0 : ranges.front().end;
}

}  // namespace

void PartFile::FreeBuffer::operator()(char* buffer) const { std::free(buffer); }

PartFile::PartFile(std::string path, RepoFile file, Clock& clock)
    : path_(std::move(path)),
      journal_path_(path_ + ".json"),
      file_(std::move(file)),
      clock_(clock),
      buffer_(static_cast<char*>(std::aligned_alloc(kBufferAlignment, kBufferBytes))),
      digest_(file_),
      boot_id_(BootId()),
      synced_at_(clock.Steady()) {}

PartFile::~PartFile() = default;

absl::StatusOr<std::unique_ptr<PartFile>> PartFile::Open(const std::string& path,
                                                         const RepoFile& file, Clock& clock) {
  std::unique_ptr<PartFile> part(new PartFile(path, file, clock));
  MODELD_CHECK(part->buffer_ != nullptr, "no memory for 1 MiB");
  ASSIGN_OR_RETURN(part->fd_, OpenFile(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0666));
  RETURN_IF_ERROR(part->Resume());
  RETURN_IF_ERROR(part->Allocate());
  return part;
}

absl::Status PartFile::Resume() {
  const absl::StatusOr<PartJournal> journal = ReadPartJournal(journal_path_);
  struct stat info{};
  if (fstat(fd_.get(), &info) != 0) return FileError(errno, "stat", path_);
  const bool same =
      journal.ok() && journal->blob == file_.blob && journal->size_bytes == file_.size_bytes;
  const int64_t end = same ? PrefixEnd(journal->Trusted()) : 0;
  if (end == 0 || end > info.st_size) return Restart();

  // The state was taken at bytes that the journal vouches for now, or else it is of no use.
  const bool known = journal->sha256_offset <= end && digest_.Restore(journal->sha256_state);
  RETURN_IF_ERROR(HashFromDisk(known ? journal->sha256_offset : 0, end));
  written_ = journaled_ = end;
  durable_ = std::min(end, PrefixEnd(journal->durable));
  if (ftruncate(fd_.get(), end) != 0) return FileError(errno, "truncate", path_);
  LogDebug("part_resumed",
           {{"blob", file_.blob}, {"bytes", end}, {"size_bytes", file_.size_bytes}});
  return absl::OkStatus();
}

// Past the end of the file: its length stays what was written, so that nothing takes zeros for
// bytes.
absl::Status PartFile::Allocate() {
  if (file_.size_bytes == written_) return absl::OkStatus();
  while (fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, 0, file_.size_bytes) != 0) {
    if (errno == EINTR) continue;
    if (errno == EOPNOTSUPP || errno == ENOSYS)
      return absl::OkStatus();  // told when it is full, then
    return FileError(errno, "allocate", path_);
  }
  return absl::OkStatus();
}

absl::Status PartFile::HashFromDisk(int64_t begin, int64_t end) {
  while (begin < end) {
    const auto piece = static_cast<size_t>(std::min(kBufferBytes, end - begin));
    const std::span<char> room(buffer_.get(), piece);
    ASSIGN_OR_RETURN(const int64_t n, ReadAt(fd_.get(), room, begin, path_));
    if (n != static_cast<int64_t>(piece)) return absl::DataLossError(path_ + " became shorter");
    Hash(room);
    begin += n;
  }
  return absl::OkStatus();
}

void PartFile::Hash(std::span<const char> data) {
  const auto begin = clock_.Steady();
  digest_.Update(data);
  hash_time_ += clock_.Steady() - begin;
}

absl::Status PartFile::Append(std::span<const char> data) {
  MODELD_CHECK(static_cast<int64_t>(data.size()) <= size_bytes() - received(),
               "a part grew too long");
  while (!data.empty()) {
    const size_t n = std::min(data.size(), static_cast<size_t>(kBufferBytes - gathered_));
    std::memcpy(buffer_.get() + gathered_, data.data(), n);
    gathered_ += static_cast<int64_t>(n);
    data = data.subspan(n);
    if (gathered_ == kBufferBytes) RETURN_IF_ERROR(WriteGathered());
  }
  if (written_ - journaled_ < kJournalStep) return absl::OkStatus();
  const bool sync =
      written_ - durable_ >= kSyncBytes || clock_.Steady() - synced_at_ >= kSyncPeriod;
  return WriteJournal(sync ? JournalWrite::kDurable : JournalWrite::kQuick);
}

// Hashed only once they are written: the digest's state and written_ always speak of the same
// bytes.
absl::Status PartFile::WriteGathered() {
  if (gathered_ == 0) return absl::OkStatus();
  const std::span<const char> data(buffer_.get(), static_cast<size_t>(gathered_));
  RETURN_IF_ERROR(WriteAt(fd_.get(), data, written_, path_));
  Hash(data);
  written_ += gathered_;
  gathered_ = 0;
  return absl::OkStatus();
}

absl::Status PartFile::WriteJournal(JournalWrite mode) {
  if (mode == JournalWrite::kDurable) {
    if (fdatasync(fd_.get()) != 0) return FileError(errno, "fdatasync", path_);
    durable_ = written_;
    synced_at_ = clock_.Steady();
  }
  PartJournal journal;
  journal.blob = file_.blob;
  journal.size_bytes = file_.size_bytes;
  journal.done = Prefix(written_);
  journal.durable = Prefix(durable_);
  journal.boot_id = boot_id_;
  journal.sha256_state = digest_.SaveState();
  journal.sha256_offset = journal.sha256_state.empty() ? 0 : written_;
  RETURN_IF_ERROR(WritePartJournal(journal_path_, journal, mode));
  journaled_ = written_;
  return absl::OkStatus();
}

absl::Status PartFile::Flush() {
  RETURN_IF_ERROR(WriteGathered());
  if (journaled_ == written_) return absl::OkStatus();
  return WriteJournal(JournalWrite::kQuick);
}

absl::Status PartFile::Keep() {
  const absl::Status flushed = Flush();
  // Truncating to the length that it has frees what was allocated past it.
  if (ftruncate(fd_.get(), written_) != 0 && flushed.ok())
    return FileError(errno, "truncate", path_);
  return flushed;
}

absl::Status PartFile::Restart() {
  RemoveJournal();
  if (ftruncate(fd_.get(), 0) != 0) return FileError(errno, "truncate", path_);
  digest_ = BlobDigest(file_);
  gathered_ = written_ = journaled_ = durable_ = 0;
  return absl::OkStatus();
}

absl::StatusOr<std::string> PartFile::Finish() {
  MODELD_CHECK(whole(), "a part finished before it was whole");
  RETURN_IF_ERROR(WriteGathered());
  // No journal any more: it would cost each small file two syncs, and the blob has its name soon.
  if (fdatasync(fd_.get()) != 0) return FileError(errno, "fdatasync", path_);
  return digest_.HexDigest();
}

void PartFile::RemoveJournal() { unlink(journal_path_.c_str()); }

void PartFile::Remove() {
  RemoveJournal();
  unlink(path_.c_str());
}

}  // namespace modeld
