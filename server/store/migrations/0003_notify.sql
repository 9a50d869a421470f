-- Every change is told on the channel `modeld`, by triggers, so that what other programs write to
-- modelregistry is heard as well. Payloads: server/store/listener.h.

-- A payload must be below 8,000 bytes; of a longer one listeners only learn that something changed.
CREATE FUNCTION modeld_notify(what TEXT) RETURNS void LANGUAGE sql AS $$
  SELECT pg_notify('modeld', CASE WHEN octet_length(what) < 7000 THEN what ELSE '' END)
$$;

CREATE FUNCTION modeld_model_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN PERFORM modeld_notify('model:' || OLD.model_name); END IF;
  IF TG_OP <> 'DELETE' THEN PERFORM modeld_notify('model:' || NEW.model_name); END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER modeld_changed AFTER INSERT OR UPDATE OR DELETE ON modelregistry
  FOR EACH ROW EXECUTE FUNCTION modeld_model_changed();

-- Progress is the operation's alone; a step also changes what the model shows.
CREATE FUNCTION modeld_operation_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM modeld_notify('operation:' || NEW.name);
  IF TG_OP = 'INSERT' OR OLD.state <> NEW.state OR OLD.phase <> NEW.phase THEN
    PERFORM modeld_notify('model:' || NEW.model_name);
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER modeld_inserted AFTER INSERT ON operations
  FOR EACH ROW EXECUTE FUNCTION modeld_operation_changed();
-- Renewing a lease is no news, and neither is losing the model.
CREATE TRIGGER modeld_updated AFTER UPDATE ON operations FOR EACH ROW
  WHEN ((OLD.state, OLD.phase, OLD.bytes_done, OLD.bytes_total, OLD.bytes_per_second, OLD.eta_ms,
         OLD.files_done, OLD.files_total, OLD.files, OLD.error, OLD.cancel_requested,
         OLD.pause_requested)
        IS DISTINCT FROM
        (NEW.state, NEW.phase, NEW.bytes_done, NEW.bytes_total, NEW.bytes_per_second, NEW.eta_ms,
         NEW.files_done, NEW.files_total, NEW.files, NEW.error, NEW.cancel_requested,
         NEW.pause_requested))
  EXECUTE FUNCTION modeld_operation_changed();

CREATE FUNCTION modeld_load_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM modeld_notify('load:' || COALESCE(NEW.node_id, OLD.node_id));
  RETURN NULL;
END
$$;
CREATE TRIGGER modeld_changed AFTER INSERT OR UPDATE OR DELETE ON loads
  FOR EACH ROW EXECUTE FUNCTION modeld_load_changed();

-- Copies and instances show in the state of their model. The row of the model is gone when a copy
-- goes with it; then the model's own trigger has told it.
CREATE FUNCTION modeld_part_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM modeld_notify('model:' || model_name) FROM modelregistry
  WHERE id = COALESCE(NEW.model_id, OLD.model_id);
  RETURN NULL;
END
$$;
CREATE TRIGGER modeld_changed AFTER INSERT OR UPDATE OR DELETE ON copies
  FOR EACH ROW EXECUTE FUNCTION modeld_part_changed();
CREATE TRIGGER modeld_changed AFTER INSERT OR DELETE ON instances
  FOR EACH ROW EXECUTE FUNCTION modeld_part_changed();
-- An instance's figures change every second; only its state is news.
CREATE TRIGGER modeld_updated AFTER UPDATE ON instances
  FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION modeld_part_changed();
