-- Tenants, Jobs and the agent: group roles, who owns which slug, the ledger of runs, and drift repair.
DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['vaultbrix_tenants', 'vaultbrix_jobs'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN EXECUTE format('CREATE ROLE %I NOLOGIN', r); END IF;
  END LOOP;
  -- The agent logs in over the Unix socket only (peer); it has no password.
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'vaultbrix_agent') THEN CREATE ROLE vaultbrix_agent LOGIN; END IF;
END $$;
GRANT pg_signal_backend, pg_read_all_stats TO vaultbrix_agent;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf(), pg_catalog.pg_hba_file_rules() TO vaultbrix_agent;
GRANT SELECT ON pg_catalog.pg_hba_file_rules TO vaultbrix_agent;

CREATE EXTENSION IF NOT EXISTS pgaudit;

SET ROLE vaultbrix_gate;

-- The Tenant object that a role belongs to; a slug is taken for as long as its row is here.
CREATE TABLE vaultbrix.tenant(
  role_name name PRIMARY KEY, namespace text NOT NULL, name text NOT NULL,
  claimed_at timestamptz NOT NULL DEFAULT clock_timestamp());

-- One row per pass whose text committed, written in the text's own transaction: exactly once, or not at all.
CREATE TABLE vaultbrix.ddl_run(
  pass_id uuid PRIMARY KEY REFERENCES vaultbrix.ddl_pass ON DELETE CASCADE,
  login name NOT NULL, ran_at timestamptz NOT NULL DEFAULT clock_timestamp());

-- True: this transaction is the run. False: it ran before. Raises VBX03 when the pass is not this login's to use now.
CREATE FUNCTION vaultbrix.begin_run(p_pass uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM vaultbrix.ddl_pass WHERE pass_id = p_pass AND login = session_user FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no pass % for %', p_pass, session_user USING ERRCODE = 'VBX03';
  END IF;
  IF EXISTS (SELECT FROM vaultbrix.ddl_run WHERE pass_id = p_pass) THEN RETURN false; END IF;
  PERFORM FROM vaultbrix.ddl_pass
   WHERE pass_id = p_pass AND revoked_at IS NULL AND expires_at > clock_timestamp();
  IF NOT FOUND THEN
    RAISE EXCEPTION 'pass % has ended', p_pass USING ERRCODE = 'VBX03';
  END IF;
  INSERT INTO vaultbrix.ddl_run(pass_id, login) VALUES (p_pass, session_user) ON CONFLICT DO NOTHING;
  RETURN FOUND;
END $$;
GRANT EXECUTE ON FUNCTION vaultbrix.begin_run(uuid) TO PUBLIC;

-- Puts back what a superuser may have switched off; called at every start and resync of the operator.
-- A role whose tables are locked is left to the next time.
CREATE FUNCTION vaultbrix.repair() RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE t name;
BEGIN
  FOR t IN SELECT evtname FROM pg_event_trigger
            WHERE evtname IN ('vaultbrix_start', 'vaultbrix_drop', 'vaultbrix_end') AND evtenabled <> 'A' LOOP
    EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', t);
  END LOOP;
  FOR t IN SELECT DISTINCT r.rolname FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
            WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT r.rolsuper LOOP
    BEGIN
      PERFORM vaultbrix.ensure_guards(t);
    EXCEPTION WHEN lock_not_available THEN NULL;
    END;
  END LOOP;
END $$;

-- The audit record is about what sessions send, not about how the gate judges it.
DO $$
DECLARE f oid;
BEGIN
  FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'vaultbrix'::regnamespace AND prosecdef LOOP
    EXECUTE format('ALTER FUNCTION %s SET pgaudit.log = %L', f::regprocedure, 'none');
  END LOOP;
END $$;
RESET ROLE;
