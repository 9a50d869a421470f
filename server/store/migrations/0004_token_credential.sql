-- The name of the credential (a file of the daemon's machine) that has a model's token for the hub; empty:
-- the daemon's own token. Tokens themselves are never in the database.
ALTER TABLE modelregistry ADD COLUMN IF NOT EXISTS token_credential TEXT NOT NULL DEFAULT '';
