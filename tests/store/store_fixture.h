// A migrated database with a model, for the tests of the tables.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "server/base/random.h"
#include "server/store/database.h"
#include "server/store/models_table.h"
#include "server/store/node_tables.h"
#include "server/store/operations_table.h"
#include "tests/support/postgres.h"
#include "tests/support/status_matchers.h"

namespace modeld {

class StoreTest : public testing::Test {
 protected:
  StoreTest() : url_(TestPostgres::Shared().NewDatabase()), database_({.url = url_}) {}

  void SetUp() override { ASSERT_THAT(database_.Migrate(), IsOk()); }

  Model InsertModel(const std::string& name) {
    const absl::StatusOr<Model> model =
        models_.Insert({.model_name = name, .hf_path = "org/" + name, .cache_path = "/cache"});
    EXPECT_THAT(model, IsOk());
    return model.value_or(Model());
  }

  // A PENDING download of `model` on node-a, inserted whatever else is active.
  Operation StartDownload(const Model& model, int32_t priority = 0) {
    const absl::StatusOr<Operation> started =
        operations_.Start({.name = RandomUuid(),
                           .kind = OperationKind::kDownload,
                           .model_id = model.id,
                           .model_name = model.model_name,
                           .node_id = "node-a",
                           .spec = {.priority = priority}},
                          [](const auto&) { return OperationsTable::Decision{.insert = true}; });
    EXPECT_THAT(started, IsOk());
    return started.value_or(Operation());
  }

  // Claims the one operation that node-a may run.
  OperationLease ClaimOne(std::chrono::seconds lease = std::chrono::seconds(30)) {
    const auto claimed = operations_.Claim("node-a", lease, {10, 10});
    EXPECT_THAT(claimed, IsOk());
    EXPECT_EQ(claimed->size(), 1u);
    if (claimed->empty()) return {};
    return {.name = claimed->front().name, .owner = "node-a", .epoch = claimed->front().epoch};
  }

  const std::string url_;
  Database database_;
  ModelsTable models_{database_};
  OperationsTable operations_{database_};
  LoadsTable loads_{database_};
  CopiesTable copies_{database_};
  InstancesTable instances_{database_};
  NodesTable nodes_{database_};
  ReservationsTable reservations_{database_};
};

}  // namespace modeld
