#include <signal.h>

#include <string>

#include "server/control/loader.h"
#include "tests/control/control_fixture.h"
#include "tests/support/fake_clock.h"

namespace modeld {
namespace {

using testing::HasSubstr;

class LoaderCrashTest : public ControlTest {
 protected:
  ~LoaderCrashTest() override { Stop(); }  // before the clock goes

  void SetUp() override {
    DaemonOptions options = Options();
    options.loader_clock = &clock_;
    Start(options);
    AddRepo("org/m");
    Register("m", "org/m");
    ASSERT_EQ(Finished(daemon().operations.Load({.model_name = "m"})).state,
              OperationState::kSucceeded);
  }
  // Kills the READY engine, and waits until the daemon has noticed.
  void KillEngine() {
    const std::vector<Instance> ready = ReadyInstances();
    ASSERT_EQ(ready.size(), 1u);
    ASSERT_EQ(kill(static_cast<pid_t>(ready.front().pid), SIGKILL), 0);
    const std::string id = ready.front().instance_id;
    ASSERT_TRUE(Eventually([&] {
      for (const Instance& instance : daemon().engines.List()) {
        if (instance.instance_id == id) return false;
      }
      return true;
    }));
  }
  ::testing::AssertionResult ComesBack() {
    return Eventually([&] { return ReadyInstances().size() == 1; });
  }

  FakeClock clock_;
};

TEST_F(LoaderCrashTest, ADeadEngineIsStartedAgainByItself) {
  KillEngine();

  EXPECT_TRUE(ComesBack());
  EXPECT_TRUE(Eventually([&] { return StateOf("m") == ModelState::kReady; }));
}

TEST_F(LoaderCrashTest, ThreeCrashesInTenMinutesEndItUntilItIsAskedForAgain) {
  KillEngine();
  ASSERT_TRUE(ComesBack());
  KillEngine();
  ASSERT_TRUE(ComesBack());
  KillEngine();

  ASSERT_TRUE(Eventually([&] { return StateOf("m") == ModelState::kFailed; }));
  EXPECT_THAT(daemon().registry.Get("m")->error, HasReasonOf(Reason::kEngineLost));
  EXPECT_THAT(RunSql(url_, "SELECT wanted FROM loads"), HasSubstr("f"));
  EXPECT_EQ(Finished(daemon().operations.Load({.model_name = "m"})).state,
            OperationState::kSucceeded);
  KillEngine();
  EXPECT_TRUE(ComesBack());
}

TEST_F(LoaderCrashTest, CrashesFarApartDoNotAddUp) {
  for (int i = 0; i < 4; ++i) {
    KillEngine();
    ASSERT_TRUE(ComesBack());
    clock_.Advance(std::chrono::minutes(6));
  }

  EXPECT_TRUE(Eventually([&] { return StateOf("m") == ModelState::kReady; }));
}

TEST_F(LoaderCrashTest, AnEngineThatDiesWhileItLoadsIsTriedThreeTimes) {
  Finished(daemon().operations.Unload("m"));
  ScriptEngine(R"({"load_crash_step":1})");

  const Operation operation = Finished(daemon().operations.Load({.model_name = "m"}));

  EXPECT_EQ(operation.state, OperationState::kFailed);
  EXPECT_THAT(operation.error, HasReasonOf(Reason::kEngineLost));
}

}  // namespace
}  // namespace modeld
