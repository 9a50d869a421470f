#include "server/config/memory_limit.h"

#include <gtest/gtest.h>

#include "server/base/file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

// A machine's /proc and /sys below a folder.
class MemoryLimitTest : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::string full = root_.path() + "/" + path;
    ASSERT_THAT(MakeDirectories(full.substr(0, full.rfind('/'))), IsOk());
    ASSERT_THAT(WriteFileAtomically(full, text), IsOk());
  }

  TempDir root_;
};

TEST_F(MemoryLimitTest, PhysicalMemoryCountsWithoutCgroups) {
  EXPECT_GT(ProcessMemoryBytes(root_.path()), 100'000'000);
}

TEST_F(MemoryLimitTest, TheSmallestLimitOnTheWayToTheRootCounts) {
  Write("proc/self/cgroup", "0::/system.slice/modeld.service\n");
  Write("sys/fs/cgroup/system.slice/memory.max", "60000000\n");
  Write("sys/fs/cgroup/system.slice/modeld.service/memory.max", "70000000\n");

  EXPECT_EQ(ProcessMemoryBytes(root_.path()), 60'000'000);
}

TEST_F(MemoryLimitTest, MaxIsNoLimit) {
  const int64_t physical = ProcessMemoryBytes(root_.path());
  Write("proc/self/cgroup", "0::/a\n");
  Write("sys/fs/cgroup/a/memory.max", "max\n");

  EXPECT_EQ(ProcessMemoryBytes(root_.path()), physical);
}

TEST_F(MemoryLimitTest, TheOldHierarchyCountsToo) {
  Write("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/1\n");
  Write("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "50000000\n");

  EXPECT_EQ(ProcessMemoryBytes(root_.path()), 50'000'000);
}

}  // namespace
}  // namespace modeld
