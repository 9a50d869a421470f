#include "server/store/database.h"

#include <latch>
#include <pqxx/pqxx>
#include <thread>
#include <vector>

#include "tests/store/store_fixture.h"

namespace modeld {
namespace {

using testing::HasSubstr;
using testing::Not;

absl::Status SelectOne(Database& database) {
  return database.Transact([](pqxx::dbtransaction& transaction) -> absl::Status {
    return transaction.exec1("SELECT 1")[0].as<int>() == 1 ? absl::OkStatus()
                                                           : absl::InternalError("not 1");
  });
}

TEST_F(StoreTest, ErrorOfTheBodyRollsBackAndIsHandedOn) {
  const absl::Status status =
      database_.Transact([](pqxx::dbtransaction& transaction) -> absl::Status {
        transaction.exec("INSERT INTO modelregistry (model_name, hf_path) VALUES ('x', 'o/x')");
        return ModelNotFound("other");
      });

  EXPECT_THAT(status, HasReasonOf(Reason::kModelNotFound));
  EXPECT_EQ(RunSql(url_, "SELECT count(*) FROM modelregistry"), "0\n");
}

TEST_F(StoreTest, StatementThatTakesTooLongIsUnavailable) {
  Database database({.url = url_, .statement_timeout = std::chrono::milliseconds(50)});

  const absl::Status status =
      database.Transact([](pqxx::dbtransaction& transaction) -> absl::Status {
        transaction.exec("SELECT pg_sleep(60)");
        return absl::OkStatus();
      });

  EXPECT_THAT(status, HasReasonOf(Reason::kDatabaseUnavailable));
  EXPECT_THAT(SelectOne(database), IsOk());
}

TEST_F(StoreTest, LostSessionIsReplacedWithinTheCall) {
  ASSERT_THAT(SelectOne(database_), IsOk());
  RunSql(url_,
         "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
         " WHERE datname = current_database() AND pid <> pg_backend_pid()");

  EXPECT_THAT(SelectOne(database_), IsOk());
}

TEST_F(StoreTest, SessionLostInsideTheBodyIsTriedOnceMore) {
  int runs = 0;
  const absl::Status status =
      database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
        ++runs;
        if (runs == 1) transaction.exec("SELECT pg_terminate_backend(pg_backend_pid())");
        transaction.exec("INSERT INTO modelregistry (model_name, hf_path) VALUES ('x', 'o/x')");
        return absl::OkStatus();
      });

  EXPECT_THAT(status, IsOk());
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(RunSql(url_, "SELECT count(*) FROM modelregistry"), "1\n");
}

TEST_F(StoreTest, SessionThatIsAlwaysLostEndsInUnavailable) {
  int runs = 0;
  const absl::Status status =
      database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
        ++runs;
        transaction.exec("SELECT pg_terminate_backend(pg_backend_pid())");
        return absl::OkStatus();
      });

  EXPECT_THAT(status, HasReasonOf(Reason::kDatabaseUnavailable));
  EXPECT_EQ(runs, 2);
  EXPECT_FALSE(database_.up());
}

TEST_F(StoreTest, MoreThreadsThanConnectionsTakeTurns) {
  Database database({.url = url_, .connections = 2});
  std::vector<absl::Status> statuses(8);
  {
    std::vector<std::jthread> threads;
    for (absl::Status& status : statuses) {
      threads.emplace_back([&] {
        for (int i = 0; i < 10 && status.ok(); ++i) status = SelectOne(database);
      });
    }
  }

  for (const absl::Status& status : statuses) EXPECT_THAT(status, IsOk());
  EXPECT_EQ(RunSql(url_,
                   "SELECT count(*) <= 3 FROM pg_stat_activity"
                   " WHERE datname = current_database() AND application_name = 'modeld'"),
            "t\n");
}

TEST(DatabaseTest, CallsFailWhileTheServerIsAwayAndWorkWhenItIsBack) {
  TestPostgres server;
  const std::string url = server.NewDatabase();
  Database database({.url = url});
  ASSERT_THAT(database.Migrate(), IsOk());
  ModelsTable models(database);
  ASSERT_THAT(models.Insert({.model_name = "kept", .hf_path = "org/kept"}), IsOk());
  EXPECT_TRUE(database.up());

  server.Stop();
  const absl::Status away = models.Get("kept").status();

  EXPECT_THAT(away, HasReasonOf(Reason::kDatabaseUnavailable));
  EXPECT_TRUE(DetailsOf(away).retry_after.has_value());
  EXPECT_FALSE(database.up());

  server.Start();

  EXPECT_THAT(models.Get("kept"), IsOk());
  EXPECT_TRUE(database.up());
}

// The server asks nobody for a password here; a folder without a server makes libpq say all it
// knows.
TEST(DatabaseTest, PasswordIsNeverInAnError) {
  Database apart({.url = "postgresql://me@/db?host=/nonexistent/s3cret", .password = "s3cret"});
  Database inside({.url = "postgresql://me:s3cret@/db?host=/nonexistent/s3cret"});
  Database broken({.url = "postgresql://me:s3cret@[/db", .password = "s3cret"});

  const absl::Status statuses[] = {SelectOne(apart), SelectOne(inside), SelectOne(broken)};

  EXPECT_THAT(statuses[0], HasReasonOf(Reason::kDatabaseUnavailable));
  EXPECT_THAT(statuses[1], HasReasonOf(Reason::kDatabaseUnavailable));
  EXPECT_THAT(statuses[2], StatusIs(absl::StatusCode::kInvalidArgument));
  for (const absl::Status& status : statuses) {
    EXPECT_THAT(status.ToString(), Not(HasSubstr("s3cret")));
  }
}

TEST(DatabaseTest, PasswordWithQuotesReachesTheServer) {
  Database database({.url = TestPostgres::Shared().NewDatabase(), .password = "it's a \\ 'pass"});

  EXPECT_THAT(SelectOne(database), IsOk());
}

}  // namespace
}  // namespace modeld
