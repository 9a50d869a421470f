#include "server/engines/leftovers.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>

#include "server/base/file.h"
#include "server/engines/child_process.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

class LeftoversTest : public testing::Test {
 protected:
  // A process that has `word` in its command line and waits for ever.
  Child Start(const std::string& word) {
    auto child = SpawnChild({.arguments = {"/bin/sh", "-c", "read x < /dev/zero", word}});
    EXPECT_THAT(child, IsOk());
    return *std::move(child);
  }

  TempDir dir_;
  const std::string socket_ = dir_.path() + "/instance";
};

TEST_F(LeftoversTest, EngineOfAnEarlierDaemonIsEnded) {
  const Child engine = Start(socket_);
  ASSERT_THAT(WritePidFile(socket_ + ".pid", engine.pid), IsOk());

  const auto ended = EndLeftovers(dir_.path());

  ASSERT_THAT(ended, IsOk());
  EXPECT_EQ(*ended, 1);
  EXPECT_EQ(ReapChild(engine), "signal 9 (Killed)");
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
}

TEST_F(LeftoversTest, ProcessThatTookOverThePidIsLeftAlone) {
  const Child stranger = Start("another program");
  ASSERT_THAT(WritePidFile(socket_ + ".pid", stranger.pid), IsOk());

  const auto ended = EndLeftovers(dir_.path());

  ASSERT_THAT(ended, IsOk());
  EXPECT_EQ(*ended, 0);
  EXPECT_FALSE(WaitForEnd(stranger.pidfd.get(), std::chrono::milliseconds(0)));
  kill(stranger.pid, SIGKILL);
  ReapChild(stranger);
}

TEST_F(LeftoversTest, ProcessThatStartedLaterIsLeftAlone) {
  const Child later = Start(socket_);
  ASSERT_THAT(WriteFileAtomically(socket_ + ".pid", std::to_string(later.pid) + " 1\n"), IsOk());

  EXPECT_THAT(EndLeftovers(dir_.path()), IsOk());

  EXPECT_FALSE(WaitForEnd(later.pidfd.get(), std::chrono::milliseconds(0)));
  kill(later.pid, SIGKILL);
  ReapChild(later);
}

TEST_F(LeftoversTest, SocketsGoAndOtherFilesStay) {
  sockaddr_un address{.sun_family = AF_UNIX};
  std::strncpy(address.sun_path, socket_.c_str(), sizeof(address.sun_path) - 1);
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_THAT(WriteFileAtomically(dir_.path() + "/notes", "x"), IsOk());
  ASSERT_THAT(WriteFileAtomically(dir_.path() + "/broken.pid", "nonsense"), IsOk());

  EXPECT_THAT(EndLeftovers(dir_.path()), IsOk());

  EXPECT_FALSE(std::filesystem::exists(socket_));
  EXPECT_FALSE(std::filesystem::exists(dir_.path() + "/broken.pid"));
  EXPECT_TRUE(std::filesystem::exists(dir_.path() + "/notes"));
}

TEST_F(LeftoversTest, MissingFolderIsAnError) {
  EXPECT_THAT(EndLeftovers(dir_.path() + "/missing"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace modeld
