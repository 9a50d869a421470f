// What a part file holds, for whoever goes on with it: kept beside it as <part>.json.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/file.h"

namespace modeld {

// The bytes [begin, end).
struct ByteRange {
  int64_t begin = 0;
  int64_t end = 0;

  bool operator==(const ByteRange&) const = default;
};

// Two marks, because a process dies more often than a machine. `done` names bytes that write(2)
// took: they outlive the process in the page cache, so `done` counts while the machine has not
// started anew (same boot_id). `durable` names bytes that fdatasync confirmed before the journal
// said so: they count always. Ranges are sorted and disjoint. A journal that lies costs a fetch,
// never a wrong blob: the digest of the whole decides.
struct PartJournal {
  std::string blob;
  int64_t size_bytes = 0;
  std::vector<ByteRange> done;
  std::vector<ByteRange> durable;
  std::string boot_id;
  // A digest's state after the bytes [0, offset); empty: none.
  struct DigestState {
    std::string state;
    int64_t offset = 0;

    bool operator==(const DigestState&) const = default;
  };
  DigestState digest;          // of bytes that are `done`
  DigestState durable_digest;  // of bytes that are `durable`

  // The ranges to believe in now: `done` or, after a restart of the machine, `durable`; and the
  // digest of them.
  const std::vector<ByteRange>& Trusted() const;
  const DigestState& TrustedDigest() const;

 private:
  bool OfThisBoot() const;
};

// kQuick syncs nothing: good against the end of the process. kDurable is on the disk when it
// returns.
enum class JournalWrite { kQuick, kDurable };

// Writes one journal again and again. The file has two places and each write goes to the older one,
// with a checksum: so a write that was torn, by whatever, leaves the one before it, and no write
// needs a new file. A journal of more ranges than have room names the first of them. One thread at
// a time; whoever writes it holds the blob's lock or has a part name of his own.
class JournalFile {
 public:
  explicit JournalFile(std::string path) : path_(std::move(path)) {}

  absl::Status Write(const PartJournal& journal, JournalWrite mode);
  // Unlinks it; the next Write() makes it anew.
  void Remove();

 private:
  absl::Status Open();

  const std::string path_;
  UniqueFd fd_;
  uint64_t sequence_ = 0;
  bool name_synced_ = false;
};

// One write to the journal at `path`.
absl::Status WritePartJournal(const std::string& path, const PartJournal& journal,
                              JournalWrite mode);

// NOT_FOUND when there is none; DATA_LOSS when it is no journal or its ranges make no sense.
absl::StatusOr<PartJournal> ReadPartJournal(const std::string& path);

// Names this start of the machine; empty where the kernel does not say.
const std::string& BootId();

}  // namespace modeld
