-- Operations that wait for room on their filesystem, limits of single operations, and reservations
-- that daemons of one machine share.
ALTER TABLE operations
  ADD COLUMN waits_for_space BOOLEAN NOT NULL DEFAULT false,   -- PAUSED by itself until there is room; `error` says how much
  ADD COLUMN bytes_per_second_max BIGINT NOT NULL DEFAULT 0;   -- 0: no limit of its own
CREATE INDEX operations_paused ON operations (node_id) WHERE state = 3;

-- Priority and limit are changed while an operation runs, and are shown.
DROP TRIGGER modeld_updated ON operations;
CREATE TRIGGER modeld_updated AFTER UPDATE ON operations FOR EACH ROW
  WHEN ((OLD.state, OLD.phase, OLD.bytes_done, OLD.bytes_total, OLD.bytes_per_second, OLD.eta_ms,
         OLD.files_done, OLD.files_total, OLD.files, OLD.error, OLD.cancel_requested,
         OLD.pause_requested, OLD.priority, OLD.bytes_per_second_max)
        IS DISTINCT FROM
        (NEW.state, NEW.phase, NEW.bytes_done, NEW.bytes_total, NEW.bytes_per_second, NEW.eta_ms,
         NEW.files_done, NEW.files_total, NEW.files, NEW.error, NEW.cancel_requested,
         NEW.pause_requested, NEW.priority, NEW.bytes_per_second_max))
  EXECUTE FUNCTION modeld_operation_changed();

-- Filesystems were named by their device number, which says nothing outside of one node. Now the name
-- tells machines apart, so that the nodes of one machine count each other's bytes. Whoever runs
-- reserves anew under the new name.
DELETE FROM reservations;
DROP INDEX reservations_filesystem;
CREATE INDEX reservations_filesystem ON reservations (filesystem);
