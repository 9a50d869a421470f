// One blob from the hub into blobs/: lock, part file, requests until it is whole, digest, name.
#pragma once

#include <chrono>
#include <memory>
#include <stop_token>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/curl/http_client.h"
#include "server/download/download_pool.h"
#include "server/download/host_slots.h"
#include "server/download/rate_limit.h"
#include "server/download/retry.h"
#include "server/hub/hub_client.h"
#include "server/metrics/metrics.h"

namespace modeld {

// What a worker works with; all of it outlives the call.
struct DownloadTools {
  HubClient& hub;
  HttpClient& http;  // of this worker alone
  HostPauses& pauses;
  HostSlots& slots;
  RateLimit& limit;  // of all downloads
  Metrics& metrics;
  Clock& clock;
  const DownloadPool::Options& options;
};

// Brings `file` to its blob and answers when it has its name, or why not. What was written stays
// for the next call, whatever ends this one. CANCELLED soon after `stop`.
absl::StatusOr<FileResult> DownloadFile(const FileDownload& file, const DownloadTools& tools,
                                        std::stop_token stop);

}  // namespace modeld
