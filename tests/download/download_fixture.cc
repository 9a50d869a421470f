#include "tests/download/download_fixture.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "server/base/file.h"
#include "server/base/sha256.h"
#include "tests/support/status_matchers.h"

namespace modeld {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

DownloadPool::Options QuickOptions() {
  return {.workers = 3,
          .stall_timeout = milliseconds(300),
          .give_up_after = milliseconds(1500),
          .lock_wait_max = milliseconds(60'000)};
}

Downloader::Downloader(FakeHub& hub, const DownloadPool::Options& options, Clock& clock)
    : client({.endpoint = hub.url(),
              .token = std::string(kToken),
              .retries_max = 2,
              .backoff_base = milliseconds(10),
              .on_retry =
                  [this](std::string_view reason) {
                    metrics.download_retries.Add({{"reason", std::string(reason)}}).Increment();
                  }},
             clock),
      pool(options, client, metrics, clock) {}

RepoListing Downloader::List(std::string_view revision) {
  const absl::StatusOr<std::string> commit =
      client.ResolveRevision({std::string(kRepo)}, revision, {}, {});
  EXPECT_THAT(commit, IsOk());
  const absl::StatusOr<RepoListing> listing =
      client.ListFiles({std::string(kRepo)}, commit.value_or(""), {}, {});
  EXPECT_THAT(listing, IsOk());
  return listing.value_or(RepoListing{});
}

SnapshotRequest Downloader::Request(const std::string& cache_path, const std::string& revision) {
  return {.model_name = "m",
          .cache_name = "primary",
          .cache_path = cache_path,
          .repo_id = std::string(kRepo),
          .revision = revision,
          .listing = List(revision)};
}

absl::StatusOr<SnapshotResult> Downloader::Download(const std::string& cache_path,
                                                    const std::string& revision,
                                                    std::stop_token stop) {
  return DownloadSnapshot(Request(cache_path, revision), pool, {}, {}, std::move(stop));
}

double Downloader::Metric(const std::string& series) const {
  const std::string text = "\n" + metrics.Scrape();
  const size_t at = text.find("\n" + series + " ");
  return at == std::string::npos ? 0 : std::strtod(text.c_str() + at + series.size() + 2, nullptr);
}

void DownloadTest::AddModel() {
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(3'333'333, 1));
  hub_.AddFile(kRepo, "config.json", TestBytes(900, 2));
  hub_.AddFile(kRepo, "sub/tokenizer.json", TestBytes(500'000, 3));
}

void DownloadTest::ExpectComplete(const RepoListing& listing) {
  for (const RepoFile& file : listing.files) {
    const absl::StatusOr<std::string> content =
        ReadFile(repo_.SnapshotPath(listing.commit) + "/" + file.path);
    ASSERT_THAT(content, IsOk());
    Sha256 sha256;
    sha256.Update(*content);
    GitBlobSha1 sha1(static_cast<int64_t>(content->size()));
    sha1.Update(*content);
    EXPECT_EQ(file.lfs ? sha256.HexDigest() : sha1.HexDigest(), file.blob) << file.path;
  }
  EXPECT_EQ(LeftoversIn(repo_), std::vector<std::string>());
}

std::vector<FakeHubRequest> DownloadTest::BodyRequests() {
  std::vector<FakeHubRequest> out;
  for (const FakeHubRequest& request : hub_.Requests()) {
    const bool body = request.method == "GET" && request.on != "api";
    if (body && request.status >= 200 && request.status < 300) out.push_back(request);
  }
  return out;
}

int64_t DownloadTest::BodyBytes() {
  int64_t bytes = 0;
  for (const FakeHubRequest& request : BodyRequests()) bytes += request.bytes;
  return bytes;
}

int RunInChild(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

std::vector<std::string> LeftoversIn(const RepoCache& repo) {
  std::vector<std::string> out;
  std::error_code error;
  for (fs::directory_iterator it(repo.blobs_path(), error), end; !error && it != end;
       it.increment(error)) {
    if (!IsBlobName(it->path().filename().string())) out.push_back(it->path().filename().string());
  }
  return out;
}

}  // namespace modeld
