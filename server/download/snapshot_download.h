// Brings one commit of a repository into a cache, in place, verified, with what is there kept.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/cache/repo_cache.h"
#include "server/core/file_filter.h"
#include "server/core/operation.h"
#include "server/core/repo.h"
#include "server/download/download_pool.h"
#include "server/download/rate_limit.h"
#include "server/hub/hub_client.h"

namespace modeld {

struct SnapshotRequest {
  std::string model_name;  // for metrics
  std::string cache_name;  // "primary", ...: for metrics
  std::string cache_path;
  std::string repo_id;
  std::string token_credential;  // as in HubRepo
  std::string revision;  // the name asked for: refs/<revision> moves to the commit at the end
  RepoListing listing;   // at the pinned commit, whole
  FileFilter filter;     // which of its files are wanted
  int32_t priority = 0;  // higher first
  std::shared_ptr<RateLimit> limit;  // of this download alone, beside the pool's; null: none
};

struct SnapshotResult {
  std::string snapshot_path;
  int64_t size_bytes = 0;     // of the wanted files
  int64_t fetched_bytes = 0;  // body bytes received
};

// Called on a pool thread, at most 10 times a second, and once at the end on the caller's thread;
// never two calls at a time.
using OnProgress = std::function<void(const OperationProgress&)>;
// Asked before refs/ move and the work counts as done; an error stops there (lost lease).
using Confirm = std::function<absl::Status()>;

// Order: missing blobs (flock, part file, journal, verify, rename) -> links -> trees/<commit>.json
// when the filter keeps everything -> confirm -> refs/<revision>. Blocks until done; call it on a
// thread of your own. Errors: those of HubClient; INSUFFICIENT_DISK; CACHE_NOT_WRITABLE;
// DIGEST_MISMATCH (after one fresh fetch); CANCELLED on `stop`. What was fetched stays and is used
// by the next call.
absl::StatusOr<SnapshotResult> DownloadSnapshot(const SnapshotRequest& request, DownloadPool& pool,
                                                const OnProgress& on_progress,
                                                const Confirm& confirm, std::stop_token stop);

}  // namespace modeld
