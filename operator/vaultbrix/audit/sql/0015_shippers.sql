-- A shipper's login stores, seals and moves positions for the servers that it is bound to, and for no other: whoever has
-- one machine's login must not speak for another machine. Row security does not do here: it allows no COPY FROM.
CREATE TABLE audit.shipper(login text NOT NULL, server text NOT NULL, PRIMARY KEY (login, server));
GRANT SELECT ON audit.shipper TO audit_read;

-- Logins of earlier releases go on with the servers that are known.
INSERT INTO audit.shipper(login, server)
SELECT r.rolname, c.server FROM audit.checkpoint c, pg_roles r
 WHERE r.rolcanlogin AND NOT r.rolsuper AND pg_has_role(r.oid, 'audit_append', 'MEMBER');

-- The store's owner may do everything anyway.
CREATE FUNCTION audit.require_shipper(p_server text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM audit.shipper WHERE login = session_user AND server = p_server)
     AND NOT pg_has_role(session_user, (SELECT relowner FROM pg_class WHERE oid = 'audit.record'::regclass), 'MEMBER') THEN
    RAISE EXCEPTION 'login % does not ship server %: each server has a login of its own (audit.servers of the chart)', session_user, p_server
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$;
REVOKE ALL ON FUNCTION audit.require_shipper(text) FROM PUBLIC;

CREATE FUNCTION audit.check_stored() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit.require_shipper(s.server) FROM (SELECT DISTINCT server FROM stored) s;
  RETURN NULL;
END $$;
CREATE FUNCTION audit.check_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN PERFORM audit.require_shipper(OLD.server); END IF;
  IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
  PERFORM audit.require_shipper(NEW.server);
  RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION audit.check_stored(), audit.check_row() FROM PUBLIC;

-- Of many rows at once, each server is asked for once.
CREATE TRIGGER shipper AFTER INSERT ON audit.record REFERENCING NEW TABLE AS stored
  FOR EACH STATEMENT EXECUTE FUNCTION audit.check_stored();
CREATE TRIGGER shipper AFTER INSERT ON audit.gap REFERENCING NEW TABLE AS stored
  FOR EACH STATEMENT EXECUTE FUNCTION audit.check_stored();
CREATE TRIGGER shipper AFTER INSERT ON audit.quarantine REFERENCING NEW TABLE AS stored
  FOR EACH STATEMENT EXECUTE FUNCTION audit.check_stored();
CREATE TRIGGER shipper BEFORE INSERT ON audit.batch FOR EACH ROW EXECUTE FUNCTION audit.check_row();
CREATE TRIGGER shipper BEFORE INSERT ON audit.part FOR EACH ROW EXECUTE FUNCTION audit.check_row();
CREATE TRIGGER shipper BEFORE INSERT OR UPDATE OR DELETE ON audit.checkpoint
  FOR EACH ROW EXECUTE FUNCTION audit.check_row();
CREATE TRIGGER shipper BEFORE INSERT OR UPDATE OR DELETE ON audit.logfile
  FOR EACH ROW EXECUTE FUNCTION audit.check_row();
CREATE TRIGGER shipper BEFORE INSERT OR UPDATE OR DELETE ON audit.missing
  FOR EACH ROW EXECUTE FUNCTION audit.check_row();
CREATE TRIGGER shipper BEFORE INSERT ON audit.unheard FOR EACH ROW EXECUTE FUNCTION audit.check_row();

CREATE OR REPLACE FUNCTION audit.seal_event(p_id bigint, p_server text, p_batch bigint, p_index int, p_salt bytea,
                                            p_leaf bytea)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit.require_shipper(p_server);
  UPDATE audit.event SET server = p_server, batch = p_batch, leaf_index = p_index, salt = p_salt, leaf = p_leaf
   WHERE id = p_id AND batch IS NULL;
  IF NOT FOUND THEN RAISE EXCEPTION 'event % is sealed already', p_id; END IF;
END $$;
