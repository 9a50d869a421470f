#include "server/store/listener.h"

#include <chrono>
#include <string>

#include "server/base/queue.h"
#include "tests/store/store_fixture.h"

namespace modeld {
namespace {

// What a listener told, in order.
class Heard {
 public:
  OnChange Callback() {
    return [this](const std::string& what) {
      std::string item = what;
      queue_.TryPush(item);
    };
  }
  // Waits for the next; the test's time limit ends a wait in vain.
  std::string Next() { return queue_.Pop().value_or("closed"); }

 private:
  BoundedQueue<std::string> queue_{1000};
};

class ListenerTest : public StoreTest {
 protected:
  Heard heard_;
};

TEST_F(ListenerTest, ConnectSaysThatAnythingMayHaveChanged) {
  ChangeListener listener(database_.options(), heard_.Callback());

  EXPECT_EQ(heard_.Next(), "");
}

TEST_F(ListenerTest, ChangesOfEachKindAreHeard) {
  ChangeListener listener(database_.options(), heard_.Callback());
  ASSERT_EQ(heard_.Next(), "");

  const Model model = InsertModel("m");
  EXPECT_EQ(heard_.Next(), "model:m");
  const Operation operation = StartDownload(model);
  EXPECT_EQ(heard_.Next(), "operation:" + operation.name);
  EXPECT_EQ(heard_.Next(), "model:m");
  ASSERT_THAT(loads_.Put({.model_id = model.id, .node_id = "node-a"}), IsOk());
  EXPECT_EQ(heard_.Next(), "load:node-a");
  ASSERT_THAT(copies_.Put({.model_id = model.id, .node_id = "node-a"}), IsOk());
  EXPECT_EQ(heard_.Next(), "model:m");
  ASSERT_THAT(instances_.Put({.instance_id = "i", .model_id = model.id}), IsOk());
  EXPECT_EQ(heard_.Next(), "model:m");
}

// Figures of an engine and leases change every second and are nobody's news.
TEST_F(ListenerTest, OnlyNewsIsTold) {
  const Model model = InsertModel("m");
  const Operation operation = StartDownload(model);
  const OperationLease lease = ClaimOne();
  ASSERT_THAT(instances_.Put({.instance_id = "i", .model_id = model.id}), IsOk());
  ChangeListener listener(database_.options(), heard_.Callback());
  ASSERT_EQ(heard_.Next(), "");

  ASSERT_THAT(operations_.Renew(lease, std::chrono::seconds(30)), IsOk());
  ASSERT_THAT(instances_.Put({.instance_id = "i", .model_id = model.id, .active_requests = 3}),
              IsOk());
  ASSERT_THAT(operations_.WriteProgress(lease, {.bytes_done = 1}), IsOk());
  ASSERT_THAT(operations_.RequestCancel(operation.name), IsOk());

  EXPECT_EQ(heard_.Next(), "operation:" + operation.name);
  EXPECT_EQ(heard_.Next(), "operation:" + operation.name);
  InsertModel("last");
  EXPECT_EQ(heard_.Next(), "model:last");
}

TEST_F(ListenerTest, WhatOtherProgramsWriteIsHeard) {
  ChangeListener listener(database_.options(), heard_.Callback());
  ASSERT_EQ(heard_.Next(), "");

  RunSql(url_, "INSERT INTO modelregistry (model_name, hf_path) VALUES ('theirs', 'o/t')");
  EXPECT_EQ(heard_.Next(), "model:theirs");
  RunSql(url_, "DELETE FROM modelregistry");
  EXPECT_EQ(heard_.Next(), "model:theirs");
}

TEST_F(ListenerTest, ChangeThatIsRolledBackIsNotTold) {
  ChangeListener listener(database_.options(), heard_.Callback());
  ASSERT_EQ(heard_.Next(), "");
  InsertModel("m");
  ASSERT_EQ(heard_.Next(), "model:m");

  EXPECT_FALSE(operations_
                   .Start({.name = "no", .model_id = 1, .node_id = "node-a"},
                          [](const auto&) -> absl::StatusOr<OperationsTable::Decision> {
                            return absl::InternalError("no");
                          })
                   .ok());
  InsertModel("next");

  EXPECT_EQ(heard_.Next(), "model:next");
}

// A name of another program may be longer than a payload can be.
TEST_F(ListenerTest, EndlessNameIsToldAsAnything) {
  ChangeListener listener(database_.options(), heard_.Callback());
  ASSERT_EQ(heard_.Next(), "");

  RunSql(url_,
         "INSERT INTO modelregistry (model_name, hf_path)"
         " SELECT repeat('long', 2500), 'o/m'");

  EXPECT_EQ(heard_.Next(), "");
}

TEST(ChangeListenerTest, ReconnectSaysThatAnythingMayHaveChanged) {
  TestPostgres server;
  const std::string url = server.NewDatabase();
  Database database({.url = url});
  ASSERT_THAT(database.Migrate(), IsOk());
  Heard heard;
  ChangeListener listener(database.options(), heard.Callback());
  ASSERT_EQ(heard.Next(), "");

  server.Stop();
  server.Start();

  EXPECT_EQ(heard.Next(), "");
  RunSql(url, "INSERT INTO modelregistry (model_name, hf_path) VALUES ('m', 'o/m')");
  EXPECT_EQ(heard.Next(), "model:m");
}

TEST(ChangeListenerTest, EndsWithoutAServer) {
  ChangeListener listener({.url = "postgresql://me@/db?host=/nonexistent"}, [](const auto&) {});
}

}  // namespace
}  // namespace modeld
