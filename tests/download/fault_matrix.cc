#include "tests/download/fault_matrix.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "server/base/clock.h"
#include "server/base/sha256.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

// Where StartToTheMiddle() stops each connection.
constexpr int64_t kMiddleBytes = 1'500'000;

absl::StatusOr<SnapshotResult> RunDownload(FakeHub& hub, const DownloadJob& job) {
  Downloader downloader(hub, job.options);
  SnapshotRequest request = {.model_name = "m",
                             .cache_name = "primary",
                             .cache_path = job.cache_path,
                             .repo_id = std::string(kRepo),
                             .revision = job.revision};
  const HubRepo repo{std::string(kRepo)};
  ASSIGN_OR_RETURN(const std::string commit,
                   downloader.client.ResolveRevision(repo, job.revision, {}, {}));
  ASSIGN_OR_RETURN(request.listing, downloader.client.ListFiles(repo, commit, {}, {}));
  return DownloadSnapshot(request, downloader.pool, {}, {}, {});
}

std::string ToJson(const absl::StatusOr<SnapshotResult>& result) {
  return nlohmann::json{{"ok", result.ok()},
                        {"reason", std::string(ReasonOf(result.status()))},
                        {"message", result.status().ToString()},
                        {"fetched_bytes", result.ok() ? result->fetched_bytes : 0}}
      .dump();
}

std::string ReadAll(int fd) {
  std::string text;
  std::array<char, 4096> piece{};
  ssize_t n = 0;
  while ((n = read(fd, piece.data(), piece.size())) > 0) text.append(piece.data(), n);
  return text;
}

// Of the file's content, of the kind that the blob's name is; "" when it cannot be read.
std::string DigestOf(const std::string& path, std::string_view blob) {
  struct stat info{};
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() || fstat(fd.get(), &info) != 0) return "";
  Sha256 sha256;
  GitBlobSha1 sha1(info.st_size);
  std::string piece(1 << 20, '\0');
  ssize_t n = 0;
  while ((n = read(fd.get(), piece.data(), piece.size())) > 0) {
    const std::string_view bytes = std::string_view(piece).substr(0, static_cast<size_t>(n));
    blob.size() == 64 ? sha256.Update(bytes) : sha1.Update(bytes);
  }
  return blob.size() == 64 ? sha256.HexDigest() : sha1.HexDigest();
}

}  // namespace

DownloadProcess::DownloadProcess(FakeHub& hub, const DownloadJob& job) {
  std::array<int, 2> ends{};
  EXPECT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  outcome_ = UniqueFd(ends[0]);
  pid_ = fork();
  if (pid_ == 0) {
    if (job.prepare && !job.prepare()) _exit(3);
    const std::string outcome = ToJson(RunDownload(hub, job));
    _exit(write(ends[1], outcome.data(), outcome.size()) == std::ssize(outcome) ? 0 : 2);
  }
  close(ends[1]);
}

DownloadProcess::~DownloadProcess() { Kill(); }

bool DownloadProcess::ended() const {
  pollfd readable = {.fd = outcome_.get(), .events = POLLIN};
  return poll(&readable, 1, 0) > 0;
}

Outcome DownloadProcess::Wait() {
  const nlohmann::json said = nlohmann::json::parse(ReadAll(outcome_.get()), nullptr, false);
  int status = 0;
  EXPECT_EQ(waitpid(std::exchange(pid_, -1), &status, 0) > 0, true);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  if (!said.is_object()) return {.message = "the process said nothing"};
  return {.ok = said["ok"],
          .reason = said["reason"],
          .message = said["message"],
          .fetched_bytes = said["fetched_bytes"]};
}

void DownloadProcess::Kill() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(std::exchange(pid_, -1), nullptr, 0);
}

// Registered before the first test.
const FaultMatrix& kMatrix = FaultMatrix::Get();

FaultMatrix& FaultMatrix::Get() {
  // GoogleTest owns it.
  static FaultMatrix* const matrix =
      dynamic_cast<FaultMatrix*>(testing::AddGlobalTestEnvironment(new FaultMatrix));
  return *matrix;
}

// In memory where there is room: tens of thousands of synced files take a disk minutes.
std::string FolderForCaches() {
  constexpr uintmax_t kRoomBytes = 4'000'000'000;
  std::error_code error;
  const fs::space_info space = fs::space("/dev/shm", error);
  return !error && space.available > kRoomBytes ? "/dev/shm" : fs::temp_directory_path().string();
}

void FaultMatrix::SetUp() {
  dir_ = std::make_unique<TempDir>(FolderForCaches());
  hub_ = std::make_unique<FakeHub>(std::vector<std::string>{std::string(kToken)});
  AddModel(kModel);
}

void FaultMatrix::TearDown() {
  hub_.reset();
  for (const char* variable : {"MODELD_PYTHON", "MODELD_OLD_HUB_PYTHON"}) {
    const char* python = std::getenv(variable);  // NOLINT(concurrency-mt-unsafe): one thread
    ASSERT_NE(python, nullptr) << variable << " must name a Python with huggingface_hub";
    const std::string command = std::string(python) +
                                " " MODELD_SOURCE_DIR "/tests/support/check_caches.py " +
                                dir_->path() + " 2>&1";
    FILE* const output = popen(command.c_str(), "r");
    ASSERT_NE(output, nullptr);
    const std::string said = ReadAll(fileno(output));
    EXPECT_EQ(pclose(output), 0) << said;
    std::printf("%s", said.c_str());
  }
  dir_.reset();
}

void FaultMatrix::AddModel(const std::string& revision) {
  hub_->AddRevisionFile(kRepo, revision, "model.safetensors", TestBytes(kWeightsBytes, 1));
  hub_->AddRevisionFile(kRepo, revision, "config.json", TestBytes(900, 2));
  hub_->AddRevisionFile(kRepo, revision, "sub/tokenizer.json", TestBytes(500'000, 3));
}

std::string FaultMatrix::CachePath(std::string_view row) const {
  return dir_->path() + "/" + std::string(row);
}

void FaultMatrixFixture::Use(const std::string& row, const std::string& revision) {
  revision_ = revision;
  cache_ = FaultMatrix::Get().CachePath(row);
  repo_ = std::make_unique<RepoCache>(cache_, std::string(kRepo));
  hub().ClearFaults();
  hub().ClearRequests();
}

void FaultMatrixFixture::AddFile(std::string_view path, std::string_view content) {
  hub().AddRevisionFile(kRepo, revision_, path, content);
}

DownloadJob FaultMatrixFixture::Job() const {
  return {.cache_path = cache_, .revision = revision_};
}

Outcome FaultMatrixFixture::Download() { return DownloadProcess(hub(), Job()).Wait(); }

std::unique_ptr<DownloadProcess> FaultMatrixFixture::StartToTheMiddle() {
  hub().AddFault(R"({"kind":"stall","on":"cdn","bytes":)" + std::to_string(kMiddleBytes) + "}");
  auto process = std::make_unique<DownloadProcess>(hub(), Job());
  while (!process->ended()) {
    int64_t sent = 0;
    for (const FakeHubRequest& request : hub().Requests()) {
      if (request.on == "cdn" && request.method == "GET") sent += request.bytes;
    }
    if (sent >= kMiddleBytes) break;
    Clock::Real().Sleep(milliseconds(5), {});
  }
  return process;
}

void FaultMatrixFixture::ExpectNoWrongByte() const {
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(repo().blobs_path(), none)) {
    const std::string name = entry.path().filename().string();
    if (!IsBlobName(name)) continue;
    EXPECT_EQ(DigestOf(entry.path().string(), name), name);
  }
}

void FaultMatrixFixture::ExpectComplete() {
  Downloader downloader(hub());
  const RepoListing listing = downloader.List(revision_);
  ASSERT_FALSE(listing.files.empty());
  for (const RepoFile& file : listing.files) {
    const std::string path = repo().SnapshotPath(listing.commit) + "/" + file.path;
    EXPECT_EQ(DigestOf(path, file.blob), file.blob) << file.path;
  }
  EXPECT_EQ(LeftoversIn(repo()), std::vector<std::string>());
  EXPECT_EQ(repo().ReadRef(revision_).value_or(""), listing.commit);
}

}  // namespace modeld
