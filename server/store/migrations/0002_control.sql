-- Desired (loads), observed (copies, instances, nodes) and attempted (operations, reservations).
-- kind, state and phase hold the numbers of server/core/operation.h and model.h, which are the proto's.

CREATE TABLE operations (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- order of age
  name TEXT NOT NULL UNIQUE,
  kind SMALLINT NOT NULL,                -- 1 download, 2 load, 3 unload, 4 verify
  model_id BIGINT REFERENCES modelregistry (id) ON DELETE SET NULL,
  model_name TEXT NOT NULL,              -- stays readable after the model is gone
  node_id TEXT NOT NULL,                 -- who is to do it
  spec JSONB NOT NULL,
  priority INTEGER NOT NULL DEFAULT 0,   -- higher first
  state SMALLINT NOT NULL,               -- 1 pending, 2 running, 3 paused, 4 succeeded, 5 failed, 6 cancelled
  phase SMALLINT NOT NULL DEFAULT 0,     -- 1 resolving, 2 downloading, 3 verifying, 4 loading, 5 ready
  bytes_done BIGINT NOT NULL DEFAULT 0,
  bytes_total BIGINT NOT NULL DEFAULT 0,
  bytes_per_second DOUBLE PRECISION NOT NULL DEFAULT 0,
  eta_ms BIGINT,
  files_done BIGINT NOT NULL DEFAULT 0,
  files_total BIGINT NOT NULL DEFAULT 0,
  files JSONB NOT NULL DEFAULT '[]',
  error JSONB,
  cancel_requested BOOLEAN NOT NULL DEFAULT false,
  pause_requested BOOLEAN NOT NULL DEFAULT false,
  owner TEXT NOT NULL DEFAULT '',        -- node that holds the lease
  epoch BIGINT NOT NULL DEFAULT 0,       -- of the lease; a writer with another one has lost it
  lease_until TIMESTAMPTZ,
  due_time TIMESTAMPTZ NOT NULL DEFAULT now(),
  create_time TIMESTAMPTZ NOT NULL DEFAULT now(),
  end_time TIMESTAMPTZ
);
CREATE INDEX operations_claimable ON operations (node_id, priority DESC, id) WHERE state IN (1, 2);
CREATE INDEX operations_active ON operations (model_id) WHERE state IN (1, 2, 3);
CREATE INDEX operations_finished ON operations (model_id, end_time DESC, id DESC) WHERE state IN (4, 5, 6);
CREATE INDEX operations_of_model ON operations (model_name, id DESC);

CREATE TABLE loads (
  model_id BIGINT NOT NULL REFERENCES modelregistry (id) ON DELETE CASCADE,
  node_id TEXT NOT NULL,
  commit TEXT NOT NULL,
  spec JSONB NOT NULL,
  pinned BOOLEAN NOT NULL,
  wanted BOOLEAN NOT NULL,
  last_used_time TIMESTAMPTZ NOT NULL DEFAULT now(),
  PRIMARY KEY (model_id, node_id)
);

-- One row a commit: the old snapshot stays while a newer one is fetched.
CREATE TABLE copies (
  model_id BIGINT NOT NULL REFERENCES modelregistry (id) ON DELETE CASCADE,
  node_id TEXT NOT NULL,
  cache_path TEXT NOT NULL,
  commit TEXT NOT NULL,
  snapshot_path TEXT NOT NULL,
  allow_patterns JSONB NOT NULL,
  ignore_patterns JSONB NOT NULL,
  complete BOOLEAN NOT NULL,
  size_bytes BIGINT NOT NULL,
  update_time TIMESTAMPTZ NOT NULL DEFAULT now(),
  PRIMARY KEY (model_id, node_id, cache_path, commit)
);

-- No cascade: a model with a running engine cannot be deleted.
CREATE TABLE instances (
  instance_id TEXT PRIMARY KEY,
  model_id BIGINT NOT NULL REFERENCES modelregistry (id),
  node_id TEXT NOT NULL,
  pid BIGINT NOT NULL,
  commit TEXT NOT NULL,
  spec JSONB NOT NULL,
  devices JSONB NOT NULL,
  state SMALLINT NOT NULL,               -- 1 loading, 2 ready, 3 draining
  load_seconds DOUBLE PRECISION NOT NULL,
  active_requests BIGINT NOT NULL,
  waiting_requests BIGINT NOT NULL,
  create_time TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX instances_model ON instances (model_id);
CREATE INDEX instances_node ON instances (node_id);

CREATE TABLE nodes (
  node_id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  address TEXT NOT NULL,
  heartbeat_time TIMESTAMPTZ NOT NULL,
  caches JSONB NOT NULL,
  devices JSONB NOT NULL
);

-- Bytes that an operation will still write to a filesystem (the node's device number).
CREATE TABLE reservations (
  operation TEXT NOT NULL,
  node_id TEXT NOT NULL,
  filesystem TEXT NOT NULL,
  bytes BIGINT NOT NULL CHECK (bytes > 0),
  PRIMARY KEY (operation, node_id, filesystem)
);
CREATE INDEX reservations_filesystem ON reservations (node_id, filesystem);
