#include "server/control/router.h"

#include "tests/control/control_fixture.h"

namespace modeld {
namespace {

class RouterTest : public ControlTest {};

TEST_F(RouterTest, AModelThatIsNotLoadedIsNotReadyAndAnUnknownOneIsNotFound) {
  Start();
  AddRepo("org/m");
  Register("m", "org/m");

  EXPECT_THAT(daemon().router->Route("m"), HasReasonOf(Reason::kModelNotReady));
  EXPECT_THAT(daemon().router->Route("none"), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(daemon().router->Route("../x"), NamesField("model_name"));
}

TEST_F(RouterTest, NamesAreHeardOfWithoutAsking) {
  Start();
  AddRepo("org/m");
  Register("m", "org/m");

  EXPECT_TRUE(Eventually(
      [&] { return HasReason(daemon().router->RouteNow("m").status(), Reason::kModelNotReady); }));
  ASSERT_THAT(daemon().registry.Delete("m", false), IsOk());
  EXPECT_TRUE(Eventually(
      [&] { return HasReason(daemon().router->RouteNow("m").status(), Reason::kModelNotFound); }));
}

TEST_F(RouterTest, AReadyModelIsPinned) {
  Start();
  AddRepo("org/m");
  Register("m", "org/m");
  ASSERT_EQ(Finished(daemon().operations.Load({.model_name = "m"})).state,
            OperationState::kSucceeded);

  const auto handle = daemon().router->RouteNow("m");

  ASSERT_THAT(handle, IsOk());
  EXPECT_EQ(handle->instance_id(), ReadyInstances().front().instance_id);
}

// Its own server, which it stops.
class RouterWithoutDatabaseTest : public ControlTest {
 protected:
  RouterWithoutDatabaseTest() : RouterWithoutDatabaseTest(std::make_unique<TestPostgres>()) {}
  ~RouterWithoutDatabaseTest() override { Stop(); }

  std::unique_ptr<TestPostgres> postgres_;

 private:
  explicit RouterWithoutDatabaseTest(std::unique_ptr<TestPostgres> postgres)
      : ControlTest(*postgres), postgres_(std::move(postgres)) {}
};

TEST_F(RouterWithoutDatabaseTest, RequestsAndRefusalsGoOn) {
  Start();
  AddRepo("org/m");
  Register("ready", "org/m");
  Register("idle", "org/m");
  ASSERT_EQ(Finished(daemon().operations.Load({.model_name = "ready"})).state,
            OperationState::kSucceeded);
  ASSERT_TRUE(Eventually([&] {
    return HasReason(daemon().router->RouteNow("idle").status(), Reason::kModelNotReady);
  }));

  postgres_->Stop();

  EXPECT_THAT(daemon().router->Route("ready"), IsOk());
  EXPECT_THAT(daemon().router->Route("idle"), HasReasonOf(Reason::kModelNotReady));
  EXPECT_THAT(daemon().router->Route("none"), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(daemon().operations.Load({.model_name = "idle"}),
              HasReasonOf(Reason::kDatabaseUnavailable));
  EXPECT_THAT(daemon().registry.Get("idle"), HasReasonOf(Reason::kDatabaseUnavailable));
}

TEST_F(RouterWithoutDatabaseTest, ADownloadGoesOnAndItsEndIsWrittenLater) {
  Start();
  AddRepo("org/m", 3'000'000);
  Register("m", "org/m");
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":2000000})");
  const auto operation = daemon().operations.Download({.model_name = "m"});
  ASSERT_THAT(operation, IsOk());
  ASSERT_TRUE(Eventually([&] {
    const auto progress = daemon().live.Get(operation->name);
    return progress && progress->bytes_done > 0;
  }));

  postgres_->Stop();
  ASSERT_TRUE(Eventually([&] {
    const auto progress = daemon().live.Get(operation->name);
    return progress && progress->bytes_done == progress->bytes_total;
  }));
  postgres_->Start();

  EXPECT_TRUE(Eventually([&] {
    const auto now = daemon().operations.Get(operation->name);
    return now.ok() && now->state == OperationState::kSucceeded;
  }));
  EXPECT_EQ(StateOf("m"), ModelState::kDownloaded);
}

}  // namespace
}  // namespace modeld
