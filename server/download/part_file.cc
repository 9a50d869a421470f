#include "server/download/part_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/log.h"
#include "server/base/status.h"

namespace modeld {
namespace {

// A file that fits a buffer of the second level cache is read back from there.
constexpr int64_t kHashPiece = 256 << 10;
// What one Write() hashes at most of what others left behind: a few milliseconds.
constexpr int64_t kHashTurn = 4 << 20;
constexpr size_t kBufferAlignment = 4096;

// After so many new bytes, or so much time with at least one journal step of them, they are synced.
// More often costs throughput on disks, less often costs more of a download when the power fails.
constexpr int64_t kSyncBytes = 256 << 20;
constexpr std::chrono::seconds kSyncPeriod{5};
// The disk is set to work on pieces of this size as they come, so that no sync finds much to do and
// other programs find little that is dirty.
constexpr int64_t kWritebackStep = 8 << 20;
// Smaller files take what they need as they grow.
constexpr int64_t kAllocateMin = 1 << 20;
// A file of more than this part of the memory that is free does not stay in the page cache.
constexpr int64_t kMemoryPart = 4;
constexpr int64_t kDropBehindMin = 64 << 20;

int64_t MemoryAvailable() {
  const absl::StatusOr<std::string> text = ReadFile("/proc/meminfo");
  const std::string name = "MemAvailable:";
  const size_t at = text.ok() ? text->find(name) : std::string::npos;
  if (at == std::string::npos) return 0;
  const size_t digits = text->find_first_not_of(' ', at + name.size());
  int64_t kib = 0;
  std::from_chars(text->data() + digits, text->data() + text->size(), kib);
  return kib * 1024;
}

int64_t EndOf(const std::vector<ByteRange>& ranges) {
  return ranges.empty() ? 0 : ranges.back().end;
}

}  // namespace

void PartFile::FreeBuffer::operator()(char* buffer) const { std::free(buffer); }

PartFile::PartFile(std::string path, RepoFile file, Clock& clock)
    : path_(std::move(path)),
      file_(std::move(file)),
      clock_(clock),
      boot_id_(BootId()),
      digest_(file_),
      journal_(path_ + ".json"),
      synced_at_(clock.Steady()) {}

PartFile::~PartFile() = default;

absl::StatusOr<std::unique_ptr<PartFile>> PartFile::Open(const std::string& path,
                                                         const RepoFile& file, Clock& clock) {
  std::unique_ptr<PartFile> part(new PartFile(path, file, clock));
  ASSIGN_OR_RETURN(part->fd_, OpenFile(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0666));
  RETURN_IF_ERROR(part->Resume());
  RETURN_IF_ERROR(part->Allocate());
  if (file.size_bytes > kDropBehindMin) {
    const int64_t memory = MemoryAvailable();
    part->drop_behind_ = memory > 0 && file.size_bytes > memory / kMemoryPart;
  }
  return part;
}

absl::Status PartFile::Resume() {
  struct stat info{};
  if (fstat(fd_.get(), &info) != 0) return FileError(errno, "stat", path_);
  const absl::StatusOr<PartJournal> journal = ReadPartJournal(path_ + ".json");
  const bool same =
      journal.ok() && journal->blob == file_.blob && journal->size_bytes == file_.size_bytes;
  if (!same || journal->Trusted().empty() || EndOf(journal->Trusted()) > info.st_size) {
    return Restart();
  }
  if (ftruncate(fd_.get(), EndOf(journal->Trusted())) != 0) {
    return FileError(errno, "truncate", path_);
  }
  MutexLock lock(mutex_);
  written_ = reserved_ = RangeSet(journal->Trusted());
  written_bytes_ = reused_ = written_.bytes();
  durable_ = journal->durable;
  // The state was taken at bytes that the journal vouches for now, or else it is of no use.
  const PartJournal::DigestState& digest = journal->TrustedDigest();
  if (digest.offset <= written_.RunEnd(0) && digest_.Restore(digest.state)) {
    hashed_ = digest.offset;
    digest_state_ = digest;
    journaled_digest_ = digest.offset;
  }
  if (journal->durable_digest.offset <= RangeSet(durable_).RunEnd(0)) {
    durable_digest_ = journal->durable_digest;
  }
  LogDebug("part_resumed", {{"blob", file_.blob},
                            {"bytes", reused_},
                            {"hashed_bytes", hashed_},
                            {"size_bytes", file_.size_bytes}});
  return absl::OkStatus();
}

// Past the end of the file: its length stays what was written, so that nothing takes zeros for
// bytes.
absl::Status PartFile::Allocate() {
  if (file_.size_bytes < kAllocateMin || reused_ == file_.size_bytes) return absl::OkStatus();
  struct stat info{};
  struct statvfs room{};
  if (fstat(fd_.get(), &info) != 0) return FileError(errno, "stat", path_);
  // A filesystem that cannot have it all would first give away what others need.
  if (fstatvfs(fd_.get(), &room) == 0 &&
      static_cast<uint64_t>(file_.size_bytes - info.st_blocks * 512) / room.f_frsize >
          room.f_bavail &&
      info.st_blocks * 512 < file_.size_bytes) {
    return FileError(ENOSPC, "allocate", path_);
  }
  while (fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, 0, file_.size_bytes) != 0) {
    if (errno == EINTR) continue;
    if (errno == EOPNOTSUPP || errno == ENOSYS)
      return absl::OkStatus();  // told when it is full, then
    const int error = errno;
    ftruncate(fd_.get(), info.st_size);  // gives back what was had
    return FileError(error, "allocate", path_);
  }
  return absl::OkStatus();
}

int64_t PartFile::written() const {
  MutexLock lock(mutex_);
  return written_bytes_;
}

int64_t PartFile::hashed() const {
  MutexLock lock(mutex_);
  return hashed_;
}

int64_t PartFile::hash_work() const {
  MutexLock lock(mutex_);
  return hash_work_;
}

std::chrono::nanoseconds PartFile::hash_time() const {
  MutexLock lock(mutex_);
  return hash_time_;
}

std::vector<ByteRange> PartFile::Missing() const {
  MutexLock lock(mutex_);
  return written_.Missing({0, file_.size_bytes});
}

std::vector<ByteRange> PartFile::Reserve(ByteRange range) {
  MutexLock lock(mutex_);
  std::vector<ByteRange> fresh = reserved_.Missing(range);
  reserved_.Add(range);
  return fresh;
}

absl::StatusOr<int64_t> PartFile::Write(int64_t offset, std::span<const char> data) {
  const ByteRange range{offset, offset + static_cast<int64_t>(data.size())};
  MODELD_CHECK(offset >= 0 && range.end <= size_bytes(), "bytes outside of a part");
  const std::vector<ByteRange> fresh = Reserve(range);
  int64_t taken = 0;
  for (size_t i = 0; i < fresh.size(); ++i) {
    const std::span<const char> piece =
        data.subspan(static_cast<size_t>(fresh[i].begin - offset),
                     static_cast<size_t>(fresh[i].end - fresh[i].begin));
    absl::Status wrote;
    {
      MutexLock lock(write_mutex_);
      wrote = WriteAt(fd_.get(), piece, fresh[i].begin, path_);
    }
    if (!wrote.ok()) {
      MutexLock lock(mutex_);
      for (; i < fresh.size(); ++i) reserved_.Remove(fresh[i]);
      return wrote;
    }
    taken += static_cast<int64_t>(piece.size());
    StartWriteback(fresh[i]);
    RETURN_IF_ERROR(Take(fresh[i], piece));
  }
  RETURN_IF_ERROR(JournalIfDue());
  return taken;
}

// Hashed only once they are written: the digest's state always speaks of bytes in the file.
absl::Status PartFile::Take(ByteRange range, std::span<const char> data) {
  bool next_in_digest = false;
  {
    MutexLock lock(mutex_);
    const auto bytes = static_cast<int64_t>(data.size());
    written_.Add(range);
    written_bytes_ += bytes;
    unjournaled_ += bytes;
    unsynced_ += bytes;
    next_in_digest = !hashing_ && hashed_ == range.begin;
    hashing_ |= next_in_digest;
  }
  if (!next_in_digest) return HashReady(kHashTurn);
  const auto begin = clock_.Steady();
  digest_.Update(data);
  EndHashing(range.end, clock_.Steady() - begin);
  return absl::OkStatus();
}

absl::Status PartFile::HashBehind(int64_t bytes_max) {
  RETURN_IF_ERROR(HashReady(bytes_max));
  return JournalIfDue();
}

absl::Status PartFile::HashReady(int64_t bytes_max) {
  ByteRange range;
  {
    MutexLock lock(mutex_);
    if (hashing_) return absl::OkStatus();
    range = {hashed_, std::min(written_.RunEnd(hashed_), hashed_ + bytes_max)};
    if (range.begin >= range.end) return absl::OkStatus();
    hashing_ = true;
  }
  const auto begin = clock_.Steady();
  // After an error nobody goes on with a digest that has lost its place: hashing_ stays set.
  RETURN_IF_ERROR(HashRange(range));
  EndHashing(range.end, clock_.Steady() - begin);
  return absl::OkStatus();
}

absl::Status PartFile::HashRange(ByteRange range) {
  if (hash_buffer_ == nullptr) {
    hash_buffer_.reset(static_cast<char*>(std::aligned_alloc(kBufferAlignment, kHashPiece)));
    MODELD_CHECK(hash_buffer_ != nullptr, "no memory for 256 KiB");
  }
  while (range.begin < range.end) {
    const auto piece = static_cast<size_t>(std::min(kHashPiece, range.end - range.begin));
    const std::span<char> room(hash_buffer_.get(), piece);
    ASSIGN_OR_RETURN(const int64_t n, ReadAt(fd_.get(), room, range.begin, path_));
    if (n != static_cast<int64_t>(piece)) return absl::DataLossError(path_ + " became shorter");
    digest_.Update(room);
    range.begin += n;
  }
  return absl::OkStatus();
}

void PartFile::EndHashing(int64_t hashed, std::chrono::nanoseconds took) {
  PartJournal::DigestState state{digest_.SaveState(), hashed};
  MutexLock lock(mutex_);
  hash_work_ += hashed - hashed_;
  hash_time_ += took;
  hashed_ = hashed;
  // Without a state there is nothing to go on from.
  if (!state.state.empty()) digest_state_ = std::move(state);
  hashing_ = false;
}

// Pieces that were begun before are set going whole, so that a page is written out once.
void PartFile::StartWriteback(ByteRange range) {
  const int64_t end = range.end / kWritebackStep * kWritebackStep;
  if (end <= range.begin) return;
  // A filesystem that cannot do it loses nothing: a sync finds it all.
  sync_file_range(fd_.get(), end - kWritebackStep, kWritebackStep, SYNC_FILE_RANGE_WRITE);
}

PartJournal PartFile::JournalNow() {
  PartJournal journal;
  journal.blob = file_.blob;
  journal.size_bytes = file_.size_bytes;
  journal.done = written_.ranges();
  journal.durable = durable_;
  journal.boot_id = boot_id_;
  journal.digest = digest_state_;
  journal.durable_digest = durable_digest_;
  unjournaled_ = 0;
  journaled_digest_ = digest_state_.offset;
  return journal;
}

absl::Status PartFile::WriteJournal(const PartJournal& journal, JournalWrite mode) {
  const absl::Status wrote = journal_.Write(journal, mode);
  MutexLock lock(mutex_);
  journaling_ = false;
  journaled_.NotifyAll();
  return wrote;
}

absl::Status PartFile::JournalIfDue() {
  PartJournal journal;
  {
    MutexLock lock(mutex_);
    const bool new_bytes = unjournaled_ >= kJournalStep && written_bytes_ < file_.size_bytes;
    const bool new_digest = digest_state_.offset - journaled_digest_ >= kJournalStep &&
                            digest_state_.offset < file_.size_bytes;
    if (journaling_ || closed_ || !(new_bytes || new_digest)) return absl::OkStatus();
    journaling_ = true;
    journal = JournalNow();
  }
  return WriteJournal(journal, JournalWrite::kQuick);
}

// No journal is written any more, and none is being written.
void PartFile::EndJournals() {
  MutexLock lock(mutex_);
  closed_ = true;
  while (journaling_ || syncing_) journaled_.Wait(mutex_);
}

absl::Status PartFile::SyncIfDue() {
  {
    MutexLock lock(mutex_);
    const bool due = unsynced_ >= kSyncBytes ||
                     (unsynced_ >= kJournalStep && clock_.Steady() - synced_at_ >= kSyncPeriod);
    if (!due || syncing_ || closed_ || written_bytes_ == file_.size_bytes) return absl::OkStatus();
    syncing_ = true;
  }
  const absl::Status synced = SyncAndJournal();
  MutexLock lock(mutex_);
  syncing_ = false;
  journaled_.NotifyAll();
  return synced;
}

absl::Status PartFile::SyncAndJournal() {
  PartJournal journal;
  {
    MutexLock lock(mutex_);
    journal = JournalNow();
    unsynced_ = 0;
    synced_at_ = clock_.Steady();
  }
  // What the journal names was written before the sync, so it is durable after it.
  if (fdatasync(fd_.get()) != 0) return FileError(errno, "fdatasync", path_);
  ByteRange drop;
  {
    MutexLock lock(mutex_);
    durable_ = journal.done;
    durable_digest_ = journal.digest;
    const int64_t end = std::min(journal.digest.offset, RangeSet(durable_).RunEnd(0));
    if (drop_behind_ && end > dropped_) drop = {std::exchange(dropped_, end), end};
    while (journaling_) journaled_.Wait(mutex_);
    journaling_ = true;
    journal = JournalNow();
  }
  if (drop.end > drop.begin) {
    posix_fadvise(fd_.get(), drop.begin, drop.end - drop.begin, POSIX_FADV_DONTNEED);
  }
  return WriteJournal(journal, JournalWrite::kDurable);
}

absl::Status PartFile::Keep() {
  EndJournals();
  PartJournal journal;
  std::vector<ByteRange> holes;
  {
    MutexLock lock(mutex_);
    journal = JournalNow();
    holes = written_.Missing({0, EndOf(journal.done)});
  }
  const absl::Status kept =
      journal.done.empty() ? absl::OkStatus() : journal_.Write(journal, JournalWrite::kQuick);
  // Truncating to the length that it has frees what was allocated past it. A filesystem without
  // holes keeps theirs.
  if (ftruncate(fd_.get(), EndOf(journal.done)) != 0 && kept.ok()) {
    return FileError(errno, "truncate", path_);
  }
  for (const ByteRange& hole : holes) {
    fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, hole.begin,
              hole.end - hole.begin);
  }
  return kept;
}

absl::Status PartFile::Restart() {
  RemoveJournal();
  if (ftruncate(fd_.get(), 0) != 0) return FileError(errno, "truncate", path_);
  digest_ = BlobDigest(file_);
  reused_ = 0;
  MutexLock lock(mutex_);
  reserved_ = written_ = RangeSet();
  written_bytes_ = hashed_ = unjournaled_ = journaled_digest_ = unsynced_ = dropped_ = 0;
  hashing_ = false;
  digest_state_ = durable_digest_ = {};
  durable_.clear();
  closed_ = false;
  return absl::OkStatus();
}

absl::Status PartFile::Sync() {
  MODELD_CHECK(whole(), "a part ended before it was whole");
  // No journal any more: it would cost each small file two syncs, and the blob has its name soon.
  if (fdatasync(fd_.get()) != 0) return FileError(errno, "fdatasync", path_);
  if (drop_behind_) posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
  return absl::OkStatus();
}

std::string PartFile::Digest() {
  MODELD_CHECK(hashed() == size_bytes(), "a digest was asked for before it was whole");
  return digest_.HexDigest();
}

void PartFile::RemoveJournal() {
  EndJournals();
  journal_.Remove();
}

void PartFile::Remove() {
  RemoveJournal();
  unlink(path_.c_str());
}

}  // namespace modeld
