// The tables of the database in one place, so that those who use several take one argument.
#pragma once

#include "server/store/database.h"
#include "server/store/models_table.h"
#include "server/store/node_tables.h"
#include "server/store/operations_table.h"

namespace modeld {

// Thread-safe, as each table is. `database` outlives it.
struct Tables {
  explicit Tables(Database& db)
      : database(db),
        models(db),
        loads(db),
        copies(db),
        instances(db),
        nodes(db),
        reservations(db),
        operations(db) {}

  Database& database;
  ModelsTable models;
  LoadsTable loads;
  CopiesTable copies;
  InstancesTable instances;
  NodesTable nodes;
  ReservationsTable reservations;
  OperationsTable operations;
};

}  // namespace modeld
