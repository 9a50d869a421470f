// A filesystem that a test can fill: a tmpfs in a mount namespace that only the test's threads see.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "server/base/file.h"
#include "tests/support/status_matchers.h"

namespace modeld {

// Inside of Run() only. Needs the right to mount, as tests/run has it.
class SmallDisk {
 public:
  // Mounts `size_mib` at `path`, which is made, and calls `body` on a thread of its own; threads
  // and processes that it starts see the disk too. The disk goes with the last of them.
  static void Run(const std::string& path, int size_mib,
                  const std::function<void(SmallDisk&)>& body) {
    std::jthread([&] {
      SmallDisk disk(path);
      std::filesystem::create_directories(path);
      ASSERT_EQ(unshare(CLONE_NEWNS), 0);
      ASSERT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
      ASSERT_EQ(mount("tmpfs", path.c_str(), "tmpfs", 0, Size(size_mib).c_str()), 0);
      body(disk);
    });
  }

  void Resize(int size_mib) {
    ASSERT_EQ(mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT, Size(size_mib).c_str()), 0);
  }
  // Somebody else writes `bytes`, or until the disk is full.
  void Eat(int64_t bytes) {
    const std::string path = path_ + "/of-others";
    const auto file = OpenFile(path, O_CREAT | O_WRONLY | O_APPEND, 0644);
    ASSERT_THAT(file, IsOk());
    const std::string piece(64 << 10, 'x');
    for (int64_t left = bytes; left > 0;) {
      const auto size = static_cast<size_t>(std::min(left, std::ssize(piece) + int64_t{0}));
      const ssize_t written = write(file->get(), piece.data(), size);
      if (written < 0 && errno == ENOSPC) return;
      ASSERT_GT(written, 0);
      left -= written;
    }
  }
  void EatAll() { Eat(int64_t{1} << 40); }
  void GiveBack() { std::filesystem::remove(path_ + "/of-others"); }

 private:
  explicit SmallDisk(std::string path) : path_(std::move(path)) {}
  static std::string Size(int mib) { return "size=" + std::to_string(mib) + "m"; }

  const std::string path_;
};

}  // namespace modeld
