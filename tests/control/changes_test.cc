#include "server/control/changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <string>
#include <thread>
#include <vector>

namespace modeld {
namespace {

using testing::ElementsAre;

TEST(ChangesTest, ASubscriberHearsItsTopicAndWhatMayConcernEverybody) {
  Changes changes;
  std::vector<std::string> heard;
  const auto subscription =
      changes.SubscribeNamed("model:a", [&](const std::string& what) { heard.push_back(what); });

  changes.Publish("model:a");
  changes.Publish("model:ab");
  changes.Publish("operation:a");
  changes.Publish("");

  EXPECT_THAT(heard, ElementsAre("model:a", ""));
}

TEST(ChangesTest, ATopicThatEndsInAColonMeansAllOfItsKind) {
  Changes changes;
  std::vector<std::string> heard;
  const auto subscription =
      changes.SubscribeNamed("model:", [&](const std::string& what) { heard.push_back(what); });

  changes.Publish("model:a");
  changes.Publish("load:n");
  changes.Publish("model:b");

  EXPECT_THAT(heard, ElementsAre("model:a", "model:b"));
}

TEST(ChangesTest, NothingIsHeardAfterTheSubscriptionEnded) {
  Changes changes;
  int heard = 0;
  auto subscription = changes.Subscribe("", [&] { ++heard; });
  changes.Publish("x");

  subscription.reset();
  changes.Publish("x");

  EXPECT_EQ(heard, 1);
}

TEST(ChangesTest, EndingASubscriptionWaitsForItsRunningCallback) {
  Changes changes;
  std::promise<void> entered;
  std::promise<void> go_on;
  bool finished = false;
  auto subscription = changes.Subscribe("", [&] {
    entered.set_value();
    go_on.get_future().wait();
    finished = true;
  });
  std::jthread publisher([&] { changes.Publish("x"); });
  entered.get_future().wait();

  std::jthread helper([&] { go_on.set_value(); });
  subscription.reset();

  EXPECT_TRUE(finished);
}

TEST(ChangesTest, ACallbackMayEndItsOwnSubscription) {
  Changes changes;
  int heard = 0;
  std::unique_ptr<Changes::Subscription> subscription;
  subscription = changes.Subscribe("", [&] {
    ++heard;
    subscription.reset();
  });

  changes.Publish("x");
  changes.Publish("x");

  EXPECT_EQ(heard, 1);
}

}  // namespace
}  // namespace modeld
