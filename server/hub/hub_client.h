// The Hugging Face Hub over HTTP: what a revision is, which files a commit has, where a file's
// bytes are, and small ranges of them. Protocol facts: hub-protocol.md 3 and 4.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/core/repo.h"

namespace modeld {

// Where the body of one file is fetched.
struct FileLocation {
  std::string url;          // may be signed: a secret, never logged
  bool send_token = false;  // only on the hub's own origin
  std::string etag;         // normalised blob name, checked by IsBlobName
  int64_t size_bytes = 0;
  std::string commit;
};

// Thread-safe. Errors of all methods: HUB_REPO_NOT_FOUND, HUB_REVISION_NOT_FOUND,
// HUB_ENTRY_NOT_FOUND, HUB_ACCESS_DENIED, HUB_UNAVAILABLE (after retries on timeouts, cuts, 408,
// 429, 5xx with backoff and jitter, Retry-After and RateLimit obeyed; RetryInfo),
// INVALID_REPOSITORY (names or ETags that no honest hub has), CANCELLED on `stop`.
class HubClient {
 public:
  struct Options {
    std::string endpoint = "https://huggingface.co";  // without a trailing slash
    std::string token;                                // never logged; empty: none
    int retries_max = 5;
    std::chrono::milliseconds connect_timeout{10'000};
    std::chrono::milliseconds first_byte_timeout{30'000};
    std::chrono::milliseconds backoff_base{500};  // doubled each time, full jitter, at most 30 s
  };

  HubClient(const Options& options, Clock& clock);
  ~HubClient();
  HubClient(const HubClient&) = delete;
  HubClient& operator=(const HubClient&) = delete;

  // How long and how often one call may try: patient for downloads, `deadline` without retries when
  // a caller waits (RegisterModel: 5 s).
  struct Patience {
    std::chrono::milliseconds deadline{120'000};
    bool retry = true;
  };

  // The commit that `revision` is now.
  absl::StatusOr<std::string> ResolveRevision(std::string_view repo, std::string_view revision,
                                              const Patience& patience, std::stop_token stop);
  // Every file of `commit`, all pages, sorted by path; paths and blob names are validated.
  absl::StatusOr<RepoListing> ListFiles(std::string_view repo, std::string_view commit,
                                        const Patience& patience, std::stop_token stop);
  // HEAD with our own redirect loop.
  absl::StatusOr<FileLocation> Locate(std::string_view repo, std::string_view commit,
                                      std::string_view path, const Patience& patience,
                                      std::stop_token stop);
  // The bytes [offset, offset + length) of a file, fewer at its end; length at most 128 MiB.
  absl::StatusOr<std::string> ReadRange(std::string_view repo, std::string_view commit,
                                        std::string_view path, int64_t offset, int64_t length,
                                        const Patience& patience, std::stop_token stop);

  const Options& options() const;

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
