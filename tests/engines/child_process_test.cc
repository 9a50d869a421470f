#include "server/engines/child_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "server/base/file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// What /bin/sh says when it runs `script` with `environment`.
std::string Say(const std::string& script, std::vector<std::string> environment = {}) {
  absl::StatusOr<Pipe> pipe = MakePipe();
  EXPECT_THAT(pipe, IsOk());
  const absl::StatusOr<Child> child = SpawnChild(
      {.arguments = {"/bin/sh", "-c", script},
       .environment = std::move(environment),
       .descriptors = {{pipe->write.get(), STDOUT_FILENO}, {pipe->write.get(), STDERR_FILENO}}});
  EXPECT_THAT(child, IsOk());
  pipe->write.Reset();
  std::string said;
  char buffer[4096];
  for (ssize_t count = 0; (count = read(pipe->read.get(), buffer, sizeof(buffer))) > 0;) {
    said.append(buffer, static_cast<size_t>(count));
  }
  EXPECT_TRUE(WaitForEnd(child->pidfd.get(), std::chrono::seconds(10)));
  ReapChild(*child);
  return said;
}

std::string EndOf(const std::string& script) {
  const absl::StatusOr<Child> child = SpawnChild({.arguments = {"/bin/sh", "-c", script}});
  EXPECT_THAT(child, IsOk());
  EXPECT_TRUE(WaitForEnd(child->pidfd.get(), std::chrono::seconds(10)));
  return ReapChild(*child);
}

TEST(ChildEnvironmentTest, SecretsStayAndTheNamedVariablesGo) {
  const char* const environment[] = {"PATH=/bin",
                                     "LANG=C",
                                     "TZ=UTC",
                                     "HF_TOKEN=hf_secret",
                                     "PGPASSWORD=x",
                                     "HOME=/root",
                                     "CUDA_VISIBLE_DEVICES=0",
                                     "NVIDIA_X=1",
                                     "OMP_NUM_THREADS=2",
                                     "MODELD_ENGINE_TRACE=1",
                                     "MODELD_DATABASE_URL=postgresql://",
                                     "LD_PRELOAD=x.so",
                                     "PATHS=1",
                                     nullptr};

  EXPECT_THAT(ChildEnvironment(environment),
              ElementsAre("PATH=/bin", "LANG=C", "TZ=UTC", "CUDA_VISIBLE_DEVICES=0", "NVIDIA_X=1",
                          "OMP_NUM_THREADS=2", "MODELD_ENGINE_TRACE=1", "OMP_WAIT_POLICY=passive"));
}

// A spinning libgomp made a token of SmolLM2 take up to a second on two busy cores.
TEST(ChildEnvironmentTest, EnginesDoNotSpinUnlessAskedTo) {
  const char* const environment[] = {"OMP_WAIT_POLICY=active", nullptr};

  EXPECT_THAT(ChildEnvironment(environment), ElementsAre("OMP_WAIT_POLICY=active"));
}

TEST(SpawnChildTest, ChildSeesTheGivenEnvironmentOnly) {
  EXPECT_EQ(Say("exec /usr/bin/env", {"A=1", "B=2"}),
            "A=1\nB=2\nPWD=" + std::filesystem::current_path().string() + "\n");
}

TEST(SpawnChildTest, NoDescriptorIsInherited) {
  const TempDir dir;
  // Deliberately without close-on-exec, as a library might open one.
  const UniqueFd leaky(open((dir.path() + "/leak").c_str(), O_RDWR | O_CREAT, 0600));
  ASSERT_TRUE(leaky.valid());

  EXPECT_THAT(Say("readlink /proc/self/fd/*"), Not(HasSubstr(dir.path())));
}

TEST(SpawnChildTest, StandardDescriptorsThatAreNotNamedAreNothing) {
  EXPECT_EQ(Say("readlink /proc/self/fd/0"), "/dev/null\n");
}

TEST(SpawnChildTest, DescriptorsMaySwapNumbers) {
  absl::StatusOr<Pipe> first = MakePipe();
  absl::StatusOr<Pipe> second = MakePipe();
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  const int a = first->write.get();
  const int b = second->write.get();
  const std::string script =
      "echo one >&" + std::to_string(a) + "; echo two >&" + std::to_string(b);

  const absl::StatusOr<Child> child =
      SpawnChild({.arguments = {"/bin/sh", "-c", script}, .descriptors = {{b, a}, {a, b}}});
  ASSERT_THAT(child, IsOk());
  ASSERT_TRUE(WaitForEnd(child->pidfd.get(), std::chrono::seconds(10)));
  ReapChild(*child);

  char text[4] = {};
  ASSERT_EQ(read(second->read.get(), text, 3), 3);
  EXPECT_STREQ(text, "one");
}

TEST(SpawnChildTest, BlockedSignalsAreNotInherited) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  const std::string mask = Say("grep SigBlk /proc/self/status");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);

  EXPECT_EQ(mask, "SigBlk:\t0000000000000000\n");
}

TEST(SpawnChildTest, MissingProgramIsNotFoundAndNamed) {
  const auto child = SpawnChild({.arguments = {"/no/such/program"}});

  EXPECT_THAT(child, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(child.status().message(), HasSubstr("/no/such/program"));
}

TEST(SpawnChildTest, EndIsToldAsPeopleSayIt) {
  EXPECT_EQ(EndOf("exit 3"), "exit status 3");
  EXPECT_EQ(EndOf("kill -9 $$"), "signal 9 (Killed)");
}

TEST(SpawnChildTest, WaitForEndGivesUp) {
  const auto child = SpawnChild({.arguments = {"/bin/sh", "-c", "read x < /dev/zero"}});
  ASSERT_THAT(child, IsOk());

  EXPECT_FALSE(WaitForEnd(child->pidfd.get(), std::chrono::milliseconds(1)));

  kill(child->pid, SIGKILL);
  EXPECT_TRUE(WaitForEnd(child->pidfd.get(), std::chrono::seconds(10)));
  EXPECT_EQ(ReapChild(*child), "signal 9 (Killed)");
}

}  // namespace
}  // namespace modeld
