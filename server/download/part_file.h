// A blob that is not whole yet: the private file it grows in, its journal, and its running digest.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/file.h"
#include "server/base/mutex.h"
#include "server/cache/part_journal.h"
#include "server/core/repo.h"
#include "server/download/blob_digest.h"
#include "server/download/range_set.h"

namespace modeld {

// Takes the bytes of one blob in any order, from many connections, and keeps them over cancels and
// crashes. Each byte is written once, straight to its place: whoever brings it first has it. The
// digest follows behind: bytes that come where it stands are hashed from memory, others a little
// later from cached pages, so no second read of the disk. The journal follows every kJournalStep
// without a sync, so that kill -9 costs at most that and what connections hold; SyncIfDue() makes
// it good against loss of power. Errors name the path; RESOURCE_EXHAUSTED and PERMISSION_DENIED as
// base/file.h has them. Thread-safe, but for what says otherwise; whoever opens it holds the blob's
// lock, or has a part name of his own.
class PartFile {
 public:
  static constexpr int64_t kJournalStep = 2 << 20;

  // Opens or makes `path` (journal: `path`.json; its mode is that of the umask), goes on with what
  // the journal vouches for, and allocates the whole size, so that a full disk is known before the
  // first byte.
  static absl::StatusOr<std::unique_ptr<PartFile>> Open(const std::string& path,
                                                        const RepoFile& file, Clock& clock);
  // Leaves what was written for the next one.
  ~PartFile();
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size_bytes() const { return file_.size_bytes; }
  int64_t reused() const { return reused_; }  // bytes that were there at Open()
  int64_t written() const;                    // bytes that are in the file
  int64_t hashed() const;                     // of those from the beginning, in the digest
  int64_t hash_work() const;                  // bytes that this object put into a digest
  bool whole() const { return written() == size_bytes(); }
  std::vector<ByteRange> Missing() const;
  std::chrono::nanoseconds hash_time() const;

  // Puts `data`, within the file, to its place, but for bytes that are there or that another thread
  // is writing. Says how many it wrote. Also hashes a bounded amount.
  absl::StatusOr<int64_t> Write(int64_t offset, std::span<const char> data);
  // Hashes up to `bytes_max` bytes that are in the file and follow the digest, unless another
  // thread does so now.
  absl::Status HashBehind(int64_t bytes_max);
  // Syncs data and then the journal, when enough has come since the last time. Drops what is synced
  // and hashed from the page cache when the file is large for this machine's memory.
  absl::Status SyncIfDue();

  // The rest is for one thread alone, nobody being at work on the file.

  // Writes the journal, and gives back the space that holds nothing: the download stops here.
  absl::Status Keep();
  // Forgets every byte: they were wrong.
  absl::Status Restart();
  // Syncs the whole file; only when whole().
  absl::Status Sync();
  // The digest, once hashed() is the whole size. Only once.
  std::string Digest();
  // Removes the journal, once the blob has its name; and the part too, when it is no use.
  void RemoveJournal();
  void Remove();

 private:
  struct FreeBuffer {
    void operator()(char* buffer) const;
  };

  PartFile(std::string path, RepoFile file, Clock& clock);
  absl::Status Resume();
  absl::Status Allocate();
  std::vector<ByteRange> Reserve(ByteRange range);
  absl::Status Take(ByteRange range, std::span<const char> data);
  absl::Status HashReady(int64_t bytes_max);
  absl::Status HashRange(ByteRange range);
  void EndHashing(int64_t hashed, std::chrono::nanoseconds took);
  absl::Status JournalIfDue();
  void EndJournals();
  absl::Status SyncAndJournal();
  PartJournal JournalNow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteJournal(const PartJournal& journal, JournalWrite mode);
  void StartWriteback(ByteRange range);

  const std::string path_;
  const RepoFile file_;
  Clock& clock_;
  const std::string boot_id_;
  UniqueFd fd_;
  int64_t reused_ = 0;
  bool drop_behind_ = false;

  // Whoever sets hashing_ has these two until he clears it; so with journaling_.
  BlobDigest digest_;
  std::unique_ptr<char, FreeBuffer> hash_buffer_;
  JournalFile journal_;

  // One writer at a time: the kernel has it so, and has the others spin.
  Mutex write_mutex_;

  mutable Mutex mutex_;
  CondVar journaled_;                          // journaling_ or syncing_ ended
  RangeSet reserved_ ABSL_GUARDED_BY(mutex_);  // in the file or being written
  RangeSet written_ ABSL_GUARDED_BY(mutex_);
  int64_t written_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool hashing_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t hashed_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t hash_work_ ABSL_GUARDED_BY(mutex_) = 0;
  std::chrono::nanoseconds hash_time_ ABSL_GUARDED_BY(mutex_){0};
  PartJournal::DigestState digest_state_ ABSL_GUARDED_BY(mutex_);
  bool journaling_ ABSL_GUARDED_BY(mutex_) = false;
  bool syncing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;           // no journal any more
  int64_t unjournaled_ ABSL_GUARDED_BY(mutex_) = 0;       // bytes written since the last journal
  int64_t journaled_digest_ ABSL_GUARDED_BY(mutex_) = 0;  // offset of the state in the journal
  int64_t unsynced_ ABSL_GUARDED_BY(mutex_) = 0;          // bytes written since the last sync
  std::vector<ByteRange> durable_ ABSL_GUARDED_BY(mutex_);
  PartJournal::DigestState durable_digest_ ABSL_GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point synced_at_ ABSL_GUARDED_BY(mutex_);
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;  // [0, dropped_) was dropped from the page cache
};

}  // namespace modeld
