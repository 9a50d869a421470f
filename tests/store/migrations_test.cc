#include "server/store/migrations.h"

#include <thread>
#include <vector>

#include "tests/store/store_fixture.h"

namespace modeld {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// As the predecessor's SQLModel class makes it, with columns of its own that it fills in Python.
constexpr char kPredecessor[] =
    "CREATE TABLE modelregistry (id SERIAL PRIMARY KEY, model_name VARCHAR NOT NULL,"
    " hf_path VARCHAR NOT NULL, trust_remote_code BOOLEAN, cache_location VARCHAR,"
    " cache_path VARCHAR, estimated_size_mb INTEGER, created_at TIMESTAMP NOT NULL);"
    "CREATE INDEX ix_modelregistry_model_name ON modelregistry (model_name);";

class MigrationsTest : public testing::Test {
 protected:
  const std::string url_ = TestPostgres::Shared().NewDatabase();
  Database database_{{.url = url_}};
};

TEST_F(MigrationsTest, EmptyDatabaseGetsTheWholeSchema) {
  ASSERT_THAT(database_.Migrate(), IsOk());

  EXPECT_EQ(RunSql(url_,
                   "SELECT string_agg(table_name, ',' ORDER BY table_name)"
                   " FROM information_schema.tables WHERE table_schema = 'public'"),
            "copies,instances,loads,modelregistry,nodes,operations,reservations,"
            "schema_migrations\n");
  EXPECT_EQ(RunSql(url_, "SELECT max(version), count(*) FROM schema_migrations"),
            std::to_string(Migrations().size()) + "|" + std::to_string(Migrations().size()) + "\n");
}

TEST_F(MigrationsTest, SecondRunChangesNothing) {
  ASSERT_THAT(database_.Migrate(), IsOk());
  const std::string before = RunSql(url_, "SELECT * FROM schema_migrations ORDER BY version");

  ASSERT_THAT(database_.Migrate(), IsOk());

  EXPECT_EQ(RunSql(url_, "SELECT * FROM schema_migrations ORDER BY version"), before);
}

TEST_F(MigrationsTest, PredecessorsTableIsAdoptedWithItsRows) {
  RunSql(url_, kPredecessor);
  RunSql(url_,
         "INSERT INTO modelregistry (model_name, hf_path, trust_remote_code, cache_location,"
         " cache_path, estimated_size_mb, created_at) VALUES"
         " ('whole', 'org/whole', true, 'secondary', '/data/cache', 6000, now()),"
         " ('bare', 'org/bare', NULL, NULL, NULL, NULL, now()),"
         " ('odd', 'org/odd', false, 'tape', '/tape', 1, now())");

  ASSERT_THAT(database_.Migrate(), IsOk());

  ModelsTable models(database_);
  const absl::StatusOr<Model> whole = models.Get("whole");
  ASSERT_THAT(whole, IsOk());
  EXPECT_TRUE(whole->trust_remote_code);
  EXPECT_EQ(whole->cache_location, CacheLocation::kSecondary);
  EXPECT_EQ(whole->cache_path, "/data/cache");
  EXPECT_EQ(whole->revision, "main");
  EXPECT_EQ(whole->estimated_size_bytes, 6'000'000'000);
  const absl::StatusOr<Model> bare = models.Get("bare");
  ASSERT_THAT(bare, IsOk());
  EXPECT_FALSE(bare->trust_remote_code);
  EXPECT_EQ(bare->cache_location, CacheLocation::kPrimary);
  EXPECT_EQ(bare->cache_path, "");
  const absl::StatusOr<Model> odd = models.Get("odd");
  ASSERT_THAT(odd, IsOk());
  EXPECT_EQ(odd->cache_location, CacheLocation::kCustom);
  EXPECT_EQ(odd->cache_path, "/tape");
  EXPECT_EQ(RunSql(url_,
                   "SELECT cache_location, cache_path IS NULL FROM modelregistry"
                   " WHERE model_name IN ('odd', 'bare') ORDER BY model_name"),
            "primary|t\ntape|f\n");
}

TEST_F(MigrationsTest, PredecessorsColumnTypesStay) {
  RunSql(url_, kPredecessor);
  const char* types =
      "SELECT string_agg(column_name || ' ' || data_type, ',' ORDER BY column_name)"
      " FROM information_schema.columns WHERE table_name = 'modelregistry'"
      " AND column_name IN ('id', 'model_name', 'hf_path', 'trust_remote_code',"
      " 'cache_location', 'cache_path', 'estimated_size_mb', 'created_at')";
  const std::string before = RunSql(url_, types);

  ASSERT_THAT(database_.Migrate(), IsOk());

  EXPECT_EQ(RunSql(url_, types), before);
}

// created_at is NOT NULL without a default: the predecessor's Python fills it in, and we do not
// know it.
TEST_F(MigrationsTest, AdoptedTableTakesNewModels) {
  RunSql(url_, kPredecessor);
  ASSERT_THAT(database_.Migrate(), IsOk());

  EXPECT_THAT(ModelsTable(database_).Insert({.model_name = "new", .hf_path = "org/new"}), IsOk());
}

TEST_F(MigrationsTest, DuplicateNamesAreReportedAndNothingChanges) {
  RunSql(url_, kPredecessor);
  RunSql(
      url_,
      "INSERT INTO modelregistry (model_name, hf_path, created_at) VALUES ('twin', 'a/a', now()),"
      " ('twin', 'b/b', now()), ('single', 'c/c', now())");

  const absl::Status status = database_.Migrate();

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("\"twin\" (2 rows)"), Not(HasSubstr("single"))));
  EXPECT_EQ(RunSql(url_,
                   "SELECT count(*) FROM information_schema.columns"
                   " WHERE table_name = 'modelregistry'"),
            "8\n");
}

TEST_F(MigrationsTest, ProgramsThatStartTogetherMigrateOnce) {
  RunSql(url_, kPredecessor);
  std::vector<absl::Status> statuses(6);
  {
    std::vector<std::jthread> threads;
    for (absl::Status& status : statuses) {
      threads.emplace_back([&] { status = Database({.url = url_}).Migrate(); });
    }
  }

  for (const absl::Status& status : statuses) EXPECT_THAT(status, IsOk());
  EXPECT_EQ(RunSql(url_, "SELECT count(*) FROM schema_migrations"),
            std::to_string(Migrations().size()) + "\n");
}

TEST_F(MigrationsTest, SchemaOfANewerProgramIsLeftAlone) {
  ASSERT_THAT(database_.Migrate(), IsOk());
  RunSql(url_, "INSERT INTO schema_migrations (version, name) VALUES (999, 'future')");

  const absl::Status status = database_.Migrate();

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(status.message()), HasSubstr("999"));
}

}  // namespace
}  // namespace modeld
