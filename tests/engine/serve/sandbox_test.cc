#include "server/engine/sandbox.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace modeld {
namespace {

// The sandbox is for ever, so each promise is looked at in a process of its own, which exits 0 when
// it holds.
class SandboxTest : public ::testing::Test {
 protected:
  SandboxTest() { ::testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

bool IsRefused(int family) { return socket(family, SOCK_STREAM, 0) < 0 && errno == EAFNOSUPPORT; }

[[noreturn]] void ExitOkIf(bool promise_holds) { _exit(promise_holds ? 0 : 1); }

TEST_F(SandboxTest, OnlyUnixSocketsCanBeMade) {
  EXPECT_EXIT(
      {
        const bool entered = EnterSandbox({.sockets = SocketRule::kUnixOnly}).ok();
        ExitOkIf(entered && IsRefused(AF_INET) && IsRefused(AF_INET6) && IsRefused(AF_NETLINK) &&
                 IsRefused(AF_VSOCK) && socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(SandboxTest, NoSocketAtAllCanBeMadeWhenNoneIsAllowed) {
  EXPECT_EXIT(
      {
        int pair[2];
        const bool entered = EnterSandbox({.sockets = SocketRule::kNone}).ok();
        ExitOkIf(entered && IsRefused(AF_UNIX) && IsRefused(AF_INET) &&
                 socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(SandboxTest, NoCoreIsWrittenAndNobodyMayLookIn) {
  EXPECT_EXIT(
      {
        const bool entered = EnterSandbox({.cpu_seconds = 30}).ok();
        rlimit core = {};
        rlimit cpu = {};
        core.rlim_max = 1;
        getrlimit(RLIMIT_CORE, &core);
        getrlimit(RLIMIT_CPU, &cpu);
        ExitOkIf(entered && core.rlim_max == 0 && cpu.rlim_max == 30 &&
                 prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 &&
                 prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(SandboxTest, SecretsLeaveTheEnvironmentAndTheRestStays) {
  EXPECT_EXIT(
      {
        setenv("HF_TOKEN", "hf_secret", 1);
        setenv("PGPASSWORD", "secret", 1);
        setenv("MODELD_DATABASE_URL", "postgresql://u:secret@h/d", 1);
        setenv("OMP_NUM_THREADS", "2", 1);
        ForgetSecrets();
        ExitOkIf(getenv("HF_TOKEN") == nullptr && getenv("PGPASSWORD") == nullptr &&
                 getenv("MODELD_DATABASE_URL") == nullptr && getenv("OMP_NUM_THREADS") != nullptr);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace modeld
