// What the rows of the fault matrix share: one hub, a folder in which each row leaves its cache,
// and downloads in processes of their own, which can be killed.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "server/base/file.h"
#include "server/cache/repo_cache.h"
#include "server/download/download_pool.h"
#include "tests/download/download_fixture.h"
#include "tests/support/fake_hub.h"
#include "tests/support/temp_dir.h"

namespace modeld {

// How a download ended.
struct Outcome {
  bool ok = false;
  std::string reason;  // of an error; "" for one outside of the contract
  std::string message;
  int64_t fetched_bytes = 0;
};

// Resolves `revision` of kRepo, lists it and downloads it into `cache_path`.
struct DownloadJob {
  std::string cache_path;
  std::string revision;
  DownloadPool::Options options = QuickOptions();
  std::function<bool()> prepare;  // first of all in the process; false ends it there
};

// A download in a process of its own. One thread.
class DownloadProcess {
 public:
  DownloadProcess(FakeHub& hub, const DownloadJob& job);
  ~DownloadProcess();  // kill -9
  DownloadProcess(const DownloadProcess&) = delete;
  DownloadProcess& operator=(const DownloadProcess&) = delete;

  bool ended() const;  // or its outcome is there
  Outcome Wait();
  void Kill();

 private:
  UniqueFd outcome_;
  pid_t pid_ = -1;
};

// The hub and the caches of all rows. After the last row real huggingface_hub looks at all caches
// at once, which costs one start of Python instead of one for each row.
class FaultMatrix : public testing::Environment {
 public:
  // The revision that most rows download; they do not change it.
  static constexpr const char* kModel = "model";
  // Of its weights: several pieces of 4 MiB and a bit.
  static constexpr int64_t kWeightsBytes = 9'333'333;
  static constexpr int64_t kModelBytes = kWeightsBytes + 900 + 500'000;

  // The one of this program.
  static FaultMatrix& Get();

  void SetUp() override;
  void TearDown() override;

  FakeHub& hub() { return *hub_; }
  // A revision like kModel: weights in LFS, and two small files in git.
  void AddModel(const std::string& revision);
  // A row's own folder; what it leaves there is looked at in the end.
  std::string CachePath(std::string_view row) const;

 private:
  std::unique_ptr<TempDir> dir_;
  std::unique_ptr<FakeHub> hub_;
};

// A row: it has a cache of its own, in which it downloads a revision of kRepo.
class FaultMatrixFixture : public testing::Test {
 protected:
  void Use(const std::string& row, const std::string& revision);
  void AddFile(std::string_view path, std::string_view content);

  DownloadJob Job() const;
  Outcome Download();
  // Starts a download that comes to a halt in the middle of the weights, and waits for that or for
  // its end.
  std::unique_ptr<DownloadProcess> StartToTheMiddle();

  // Every blob is what its name says, whatever happened.
  void ExpectNoWrongByte() const;
  // All of the revision is there, in the snapshot and by its digests, and nothing is left over.
  void ExpectComplete();

  FakeHub& hub() { return FaultMatrix::Get().hub(); }
  const RepoCache& repo() const { return *repo_; }

  std::string revision_;
  std::string cache_;

 private:
  std::unique_ptr<RepoCache> repo_;
};

}  // namespace modeld
