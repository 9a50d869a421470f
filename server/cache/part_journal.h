// What a part file holds, for whoever goes on with it: kept beside it as <part>.json.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

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
  std::string sha256_state;  // of the bytes [0, sha256_offset); empty: none
  int64_t sha256_offset = 0;

  // The ranges to believe in now: `done` or, after a restart of the machine, `durable`.
  const std::vector<ByteRange>& Trusted() const;
};

// Replaces the journal at `path` by temporary name and rename. Without `durable` nothing is synced:
// good against the end of the process.
enum class JournalWrite { kQuick, kDurable };
absl::Status WritePartJournal(const std::string& path, const PartJournal& journal,
                              JournalWrite mode);

// NOT_FOUND when there is none; DATA_LOSS when it is no journal or its ranges make no sense.
absl::StatusOr<PartJournal> ReadPartJournal(const std::string& path);

// Names this start of the machine; empty where the kernel does not say.
std::string BootId();

}  // namespace modeld
