-- The table that other programs read too. An existing one of the predecessor is adopted: its columns and
-- their types stay, ours are added, and what we must be able to leave out becomes nullable.
CREATE TABLE IF NOT EXISTS modelregistry (
  id SERIAL PRIMARY KEY,
  model_name VARCHAR NOT NULL,
  hf_path VARCHAR NOT NULL,
  trust_remote_code BOOLEAN,
  cache_location VARCHAR,
  cache_path VARCHAR
);

-- Names are how everything addresses a model, so two rows of one name cannot be served. Which of them
-- is meant only its owner knows: say so and change nothing.
DO $$
DECLARE
  names TEXT;
BEGIN
  SELECT string_agg(format('"%s" (%s rows)', model_name, n), ', ' ORDER BY model_name) INTO names
  FROM (SELECT model_name, count(*) AS n FROM modelregistry
        GROUP BY model_name HAVING count(*) > 1 ORDER BY model_name LIMIT 20) AS twice;
  IF names IS NOT NULL THEN
    RAISE EXCEPTION 'modelregistry has several rows of one model_name: %; rename or delete all but one of each', names
      USING ERRCODE = 'MD001';
  END IF;
END
$$;

ALTER TABLE modelregistry
  ADD COLUMN IF NOT EXISTS trust_remote_code BOOLEAN,
  ADD COLUMN IF NOT EXISTS cache_location VARCHAR,
  ADD COLUMN IF NOT EXISTS cache_path VARCHAR,
  ADD COLUMN IF NOT EXISTS revision TEXT NOT NULL DEFAULT 'main',
  ADD COLUMN IF NOT EXISTS commit TEXT NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS snapshot_path TEXT NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS estimated_size_bytes BIGINT NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS size_bytes BIGINT NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS allow_patterns JSONB NOT NULL DEFAULT '[]',
  ADD COLUMN IF NOT EXISTS ignore_patterns JSONB NOT NULL DEFAULT '[]',
  ADD COLUMN IF NOT EXISTS inspection JSONB,
  ADD COLUMN IF NOT EXISTS create_time TIMESTAMPTZ NOT NULL DEFAULT now(),
  ADD COLUMN IF NOT EXISTS update_time TIMESTAMPTZ NOT NULL DEFAULT now();

UPDATE modelregistry SET trust_remote_code = false WHERE trust_remote_code IS NULL;
UPDATE modelregistry SET cache_location = 'primary' WHERE cache_location IS NULL;
UPDATE modelregistry SET revision = 'main' WHERE revision IS NULL;
ALTER TABLE modelregistry
  ALTER COLUMN trust_remote_code SET DEFAULT false,
  ALTER COLUMN cache_location SET DEFAULT 'primary',
  ALTER COLUMN cache_path DROP NOT NULL,
  ALTER COLUMN revision SET DEFAULT 'main';

-- The predecessor's estimate, where it kept one, in MB of 10^6 bytes.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'modelregistry'::regclass
             AND attname = 'estimated_size_mb' AND NOT attisdropped
             AND atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                              'float4'::regtype, 'float8'::regtype, 'numeric'::regtype)) THEN
    UPDATE modelregistry SET estimated_size_bytes = estimated_size_mb * 1000000::numeric
    WHERE estimated_size_bytes = 0 AND estimated_size_mb BETWEEN 1 AND 1000000000;
  END IF;
END
$$;

-- A Python model fills its defaults in itself, so that the predecessor's own columns may be NOT NULL
-- without a default: our inserts, which do not know them, would be refused.
DO $$
DECLARE
  of_theirs NAME;
BEGIN
  FOR of_theirs IN
    SELECT attname FROM pg_attribute
    WHERE attrelid = 'modelregistry'::regclass AND attnum > 0 AND NOT attisdropped
      AND attnotnull AND NOT atthasdef AND attidentity = ''
      AND attname NOT IN ('id', 'model_name', 'hf_path')
  LOOP
    EXECUTE format('ALTER TABLE modelregistry ALTER COLUMN %I DROP NOT NULL', of_theirs);
  END LOOP;
END
$$;

CREATE UNIQUE INDEX modelregistry_model_name_unique ON modelregistry (model_name);
-- Pages are in byte order, whatever the collation of the database.
CREATE INDEX modelregistry_model_name_bytes ON modelregistry (model_name COLLATE "C");
