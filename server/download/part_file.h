// A blob that is not whole yet: the private file it grows in, its journal, and its running digest.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/file.h"
#include "server/cache/part_journal.h"
#include "server/core/repo.h"
#include "server/download/blob_digest.h"

namespace modeld {

// Takes the bytes of one blob in order and keeps them over cancels and crashes. Bytes are gathered
// into 1 MiB, then hashed, then written: libcurl hands out 16 KiB at most, and a write of that size
// costs a third more CPU. The journal follows every kJournalStep without a sync, so that kill -9
// costs at most that and the gathered MiB, and with fdatasync at the slower pace of the .cc file
// against loss of power. Errors name the path; RESOURCE_EXHAUSTED and PERMISSION_DENIED as
// base/file.h has them. One thread at a time; whoever opens it holds the blob's lock, or has a part
// name of his own.
class PartFile {
 public:
  static constexpr int64_t kJournalStep = 2 << 20;

  // Opens or makes `path` (journal: `path`.json), goes on after what the journal vouches for, and
  // allocates the whole size, so that a full disk is known before the first byte.
  static absl::StatusOr<std::unique_ptr<PartFile>> Open(const std::string& path,
                                                        const RepoFile& file, Clock& clock);
  // Leaves what Flush() wrote for the next one.
  ~PartFile();
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size_bytes() const { return file_.size_bytes; }
  // Bytes taken so far: where the next request begins.
  int64_t received() const { return written_ + gathered_; }
  // Those of them that are in the file.
  int64_t written() const { return written_; }
  bool whole() const { return received() == size_bytes(); }
  // Time spent on the digest.
  std::chrono::nanoseconds hash_time() const { return hash_time_; }

  // At most size_bytes() - received() bytes.
  absl::Status Append(std::span<const char> data);
  // Writes what is gathered, and the journal.
  absl::Status Flush();
  // Flush(), and gives back the space that was allocated ahead: the download stops here for now.
  absl::Status Keep();
  // Forgets every byte: they were wrong.
  absl::Status Restart();
  // Syncs the whole file and gives its digest; only when whole().
  absl::StatusOr<std::string> Finish();
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
  absl::Status HashFromDisk(int64_t begin, int64_t end);
  void Hash(std::span<const char> data);
  absl::Status WriteGathered();
  absl::Status WriteJournal(JournalWrite mode);

  const std::string path_;
  const std::string journal_path_;
  const RepoFile file_;
  Clock& clock_;
  UniqueFd fd_;
  std::unique_ptr<char, FreeBuffer> buffer_;
  BlobDigest digest_;
  int64_t gathered_ = 0;   // bytes in buffer_
  int64_t written_ = 0;    // bytes [0, written_) are in the file and in the digest
  int64_t journaled_ = 0;  // written_ when the journal was written last
  int64_t durable_ = 0;    // bytes [0, durable_) are synced
  const std::string boot_id_;
  std::chrono::steady_clock::time_point synced_at_;
  std::chrono::nanoseconds hash_time_{0};
};

}  // namespace modeld
