// What the tests of downloads share: a fake hub with one repository, a cache, and a pool between
// them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/clock.h"
#include "server/cache/repo_cache.h"
#include "server/download/download_pool.h"
#include "server/download/snapshot_download.h"
#include "server/hub/hub_client.h"
#include "server/metrics/metrics.h"
#include "tests/support/fake_hub.h"
#include "tests/support/temp_dir.h"

namespace modeld {

constexpr std::string_view kRepo = "acme/model";
constexpr std::string_view kToken = "hf_secret";

// Short waits: what takes minutes against the real hub takes milliseconds here.
DownloadPool::Options QuickOptions();

// One program's side of a download: its own hub client, pool and metrics.
struct Downloader {
  explicit Downloader(FakeHub& hub, const DownloadPool::Options& options = QuickOptions(),
                      Clock& clock = Clock::Real());

  // The listing of `revision` now.
  RepoListing List(std::string_view revision = "main");
  // What DownloadSnapshot needs for `revision`.
  SnapshotRequest Request(const std::string& cache_path, const std::string& revision = "main");
  // Downloads `revision` and asks nobody.
  absl::StatusOr<SnapshotResult> Download(const std::string& cache_path,
                                          const std::string& revision = "main",
                                          std::stop_token stop = {});
  // The value of one series, such as `modeld_download_retries_total{reason="cut"}`; 0 without one.
  double Metric(const std::string& series) const;

  Metrics metrics;
  HubClient client;
  DownloadPool pool;
};

class DownloadTest : public testing::Test {
 protected:
  // The repository of most tests: weights of 3 MB and a bit in LFS, and two small files in git.
  void AddModel();
  // Expects every file of `listing` in its snapshot, with the bytes that its digest promises, and
  // no part file or journal left.
  void ExpectComplete(const RepoListing& listing);
  // Requests for bodies, hub and CDN, that were answered with one.
  std::vector<FakeHubRequest> BodyRequests();
  int64_t BodyBytes();

  TempDir dir_;
  const std::string cache_ = dir_.path() + "/cache";
  RepoCache repo_{cache_, std::string(kRepo)};
  FakeHub hub_{{std::string(kToken)}};
};

// Runs `body` in a process of its own, forked before this one has threads; says how that ended, as
// waitpid(2) does. `body` answers the exit status.
int RunInChild(const std::function<int()>& body);

// The names in blobs/ that are no blobs.
std::vector<std::string> LeftoversIn(const RepoCache& repo);

}  // namespace modeld
