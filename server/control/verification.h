// Checks the files of a snapshot against their digests and fetches the broken ones again.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "server/core/file_filter.h"
#include "server/core/repo.h"
#include "server/download/download_pool.h"
#include "server/hub/hub_client.h"

namespace modeld {

// The numbers are those of the proto.
enum class VerifyResult {
  kNone = 0,
  kOk = 1,
  kMissing = 2,
  kCorrupt = 3,
  kExtra = 4,
  kRepaired = 5
};

// Progress and, unless `path` is empty, what was found of a file.
struct VerifyEvent {
  std::string commit;
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;
  int64_t files_done = 0;
  int64_t files_total = 0;
  std::string path;
  VerifyResult result = VerifyResult::kNone;
  std::string expected_digest;
  std::string actual_digest;
};
// One call at a time, on any thread. It may block: the verification then waits.
using OnVerified = std::function<void(const VerifyEvent&)>;

struct VerifyJob {
  std::string model_name;  // for metrics
  std::string cache_name;  // for metrics
  std::string cache_path;
  std::string repo_id;
  std::string token_credential;  // as in HubRepo
  std::string commit;            // its snapshot is there
  // Without one, links are checked against the name of their blob, which is its digest; what is
  // missing cannot be known then.
  std::optional<RepoListing> listing;
  FileFilter filter;  // files that it leaves out may be missing
  bool repair = false;
};

// Reads every file once, on two threads of low I/O priority, a file with several names once. With
// `repair` a wrong blob is removed under its lock (never written to; of a shared one only the link
// goes) once the hub has said that it has the file, and the pool fetches it anew. HUB_UNAVAILABLE
// when a file has neither listing nor blob name; with `repair` the error of the first file that
// could not be had, after the others were tried; CANCELLED on `stop`.
absl::Status VerifySnapshot(const VerifyJob& job, HubClient& hub, DownloadPool& pool,
                            const OnVerified& on_event, std::stop_token stop);

}  // namespace modeld
