// The Hugging Face Hub over HTTP: what a revision is, which files a commit has, where a file's
// bytes are, and small ranges of them. Protocol facts: hub-protocol.md 3 and 4.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/core/repo.h"
#include "server/curl/http_client.h"
#include "server/hub/hub_endpoints.h"

namespace modeld {

// A repository, and whose token opens it.
struct HubRepo {
  std::string id;                // "org/name"
  std::string token_credential;  // name of a credential; empty: the daemon's own token
};

// Where the body of one file is fetched.
struct FileLocation {
  std::string url;          // may be signed: a secret, never logged
  bool send_token = false;  // only where TokenFor() gives one
  std::string etag;         // normalised blob name, checked by IsBlobName
  int64_t size_bytes = 0;
  std::string commit;
  std::string endpoint;  // that named the place; for SetAside()
};

// Thread-safe. Every call asks the endpoint, and the mirrors in their order when that is not
// available (unreachable, or HUB_UNAVAILABLE after the retries); its own refusals are final, those
// of a mirror are not, since it need not have everything. Errors of all methods:
// HUB_REPO_NOT_FOUND, HUB_REVISION_NOT_FOUND, HUB_ENTRY_NOT_FOUND, HUB_ACCESS_DENIED (also for a
// credential that is not there), HUB_UNAVAILABLE (after retries on timeouts, cuts, 408, 429, 5xx
// with backoff and jitter, Retry-After and RateLimit obeyed; RetryInfo, but not when offline),
// INVALID_REPOSITORY (names or ETags that no honest hub has), CANCELLED on `stop`.
class HubClient {
 public:
  struct Options {
    std::string endpoint = "https://huggingface.co";  // without a trailing slash
    std::string token;            // of the daemon, unless token_file has it; never logged
    std::string token_file;       // absolute path; read anew for each call
    std::string credentials_dir;  // with the tokens that repositories name
    std::vector<HubMirror> mirrors;
    bool offline = false;  // no request at all
    HttpSettings http = HttpSettingsFromEnvironment();
    int retries_max = 5;
    std::chrono::milliseconds connect_timeout{10'000};
    std::chrono::milliseconds first_byte_timeout{30'000};
    std::chrono::milliseconds backoff_base{500};  // doubled each time, full jitter, at most 30 s
    // For a metric, from any thread: why a request is made again ("status_503", "cut", ...);
    // "rate_limit" once for each pause that a server asked for; "mirror" when an endpoint was set
    // aside.
    std::function<void(std::string_view reason)> on_retry;
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
  absl::StatusOr<std::string> ResolveRevision(const HubRepo& repo, std::string_view revision,
                                              const Patience& patience, std::stop_token stop);
  // Every file of `commit`, all pages, sorted by path; paths and blob names are validated.
  absl::StatusOr<RepoListing> ListFiles(const HubRepo& repo, std::string_view commit,
                                        const Patience& patience, std::stop_token stop);
  // HEAD with our own redirect loop.
  absl::StatusOr<FileLocation> Locate(const HubRepo& repo, std::string_view commit,
                                      std::string_view path, const Patience& patience,
                                      std::stop_token stop);
  // The bytes [offset, offset + length) of a file, fewer at its end; length at most 128 MiB.
  absl::StatusOr<std::string> ReadRange(const HubRepo& repo, std::string_view commit,
                                        std::string_view path, int64_t offset, int64_t length,
                                        const Patience& patience, std::stop_token stop);

  // For bodies that are fetched elsewhere. The address of a file that needs no HEAD (none but its
  // url, send_token and endpoint are set); the names are not checked.
  FileLocation AddressOf(const HubRepo& repo, std::string_view commit, std::string_view path) const;
  // The token for a request to `url`; empty where none may go.
  absl::StatusOr<std::string> TokenFor(const HubRepo& repo, const std::string& url) const;
  // Before a request to `url`: waits for its turn when that is at a hub. HUB_UNAVAILABLE when
  // offline, CANCELLED.
  absl::Status WaitForTurn(const HubRepo& repo, const std::string& url, std::stop_token stop);
  // After it: what the answer says of further requests.
  void Heed(const HubRepo& repo, const std::string& url, const HttpResponse& response);
  // Bytes from places that `endpoint` names do not come, or are wrong: asks others first for a
  // while. False when there is no other one, or that is so already.
  bool SetAside(const std::string& endpoint);

  const Options& options() const;

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
