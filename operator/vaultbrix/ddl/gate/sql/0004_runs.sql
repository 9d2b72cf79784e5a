-- Runs of an approval beyond one transaction of a Job: rehearsals, sessions of the tenant's own, steps outside a
-- transaction; and a sweep of guards that looks only at the tables that a GRANT changed.
SET ROLE vaultbrix_gate;

-- No table of before is altered: a tenant's open transaction that has only asked for a pass would hold the upgrade up.

-- A rehearsal lets the text through and the database refuses to commit what used it.
CREATE TABLE vaultbrix.rehearsal(pass_id uuid PRIMARY KEY REFERENCES vaultbrix.ddl_pass ON DELETE CASCADE);
CREATE TABLE vaultbrix.rehearsal_use(pass_id uuid NOT NULL);
CREATE INDEX ON vaultbrix.ddl_pass_use(pid, message_ts);

-- Everything that uses of a pass dropped or emptied, as expect_drops names it. Each command of a message adds its own.
CREATE TABLE vaultbrix.ddl_pass_drop(
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, pass_id uuid NOT NULL, object text NOT NULL);
CREATE INDEX ON vaultbrix.ddl_pass_drop(pass_id);

-- Statements that run outside a transaction: begun and not finished means that nobody knows whether it took effect.
CREATE TABLE vaultbrix.ddl_step(
  pass_id uuid NOT NULL REFERENCES vaultbrix.ddl_pass ON DELETE CASCADE, position int NOT NULL CHECK (position > 0),
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(), finished_at timestamptz, PRIMARY KEY (pass_id, position));

CREATE FUNCTION vaultbrix.refuse_rehearsal() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'a rehearsal cannot be committed' USING ERRCODE = 'VBX04',
    HINT = 'Roll the transaction back. SET CONSTRAINTS ALL IMMEDIATE and statements that commit by themselves cannot be rehearsed.';
END $$;
-- Deferred to the commit, whoever brings it about: the client, a procedure, PREPARE TRANSACTION, or a statement that
-- commits halfway. What a rolled-back subtransaction did is undone together with its mark.
CREATE CONSTRAINT TRIGGER rehearsal AFTER INSERT ON vaultbrix.rehearsal_use DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION vaultbrix.refuse_rehearsal();
ALTER TABLE vaultbrix.rehearsal_use ENABLE ALWAYS TRIGGER rehearsal;

CREATE OR REPLACE FUNCTION vaultbrix.use_pass(p_tag text, p_nested boolean, p_schemas name[], p_consume boolean, p_objects text[])
RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE q text := current_query(); h bytea; r record; one_time boolean;
BEGIN
  IF q IS NULL OR current_setting('standard_conforming_strings') <> 'on' THEN RETURN NULL; END IF;
  h := sha256(convert_to(vaultbrix.norm(q), 'UTF8'));
  -- Logins of Jobs and rehearsals have passes of their own and use up nobody else's.
  one_time := EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles j ON j.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
                       WHERE j.rolname = 'vaultbrix_jobs' AND u.rolname = session_user);
  FOR r IN SELECT p.pass_id, t.from_stmt, t.to_stmt, p.next_stmt,
                  EXISTS (SELECT FROM vaultbrix.rehearsal m WHERE m.pass_id = p.pass_id) AS rehearsal,
                  EXISTS (SELECT FROM unnest(p.gated) x WHERE x >= p.next_stmt AND x < t.from_stmt) AS skips
             FROM vaultbrix.ddl_pass_text t JOIN vaultbrix.ddl_pass p USING (pass_id)
            WHERE t.sha256 = h AND p.revoked_at IS NULL AND p.expires_at > clock_timestamp()
              AND EXISTS (SELECT FROM pg_roles pr WHERE pr.rolname = p.role_name AND pg_has_role(session_user, pr.oid, 'MEMBER'))
              AND (p.login = session_user OR (p.login IS NULL AND NOT one_time))
              AND (p.allow_nested OR NOT p_nested)
              AND (p.lexer_safe OR strpos(q, chr(92)) = 0)   -- standard_conforming_strings=off would re-lex the same bytes
              AND (p.schemas IS NULL OR p.schemas = p_schemas)
              AND (p.expect_drops IS NULL OR p_objects IS NULL OR p_objects <@ p.expect_drops)
            ORDER BY p.expires_at, p.pass_id, t.from_stmt, t.to_stmt
  LOOP
    -- further firings of the same client message are one use (statement_timestamp is set once per message)
    IF EXISTS (SELECT FROM vaultbrix.ddl_pass_use u WHERE u.pass_id = r.pass_id AND u.from_stmt = r.from_stmt AND u.to_stmt = r.to_stmt
                AND u.pid = pg_backend_pid() AND u.message_ts = statement_timestamp()) THEN
      INSERT INTO vaultbrix.ddl_pass_drop(pass_id, object) SELECT r.pass_id, x FROM unnest(p_objects) x;
      RETURN r.pass_id;
    END IF;
    IF r.from_stmt < r.next_stmt OR r.skips THEN CONTINUE; END IF;
    -- A rehearsal is marked before anything happens: a statement that commits halfway must not get that far.
    IF NOT p_consume AND NOT r.rehearsal THEN RETURN r.pass_id; END IF;
    UPDATE vaultbrix.ddl_pass p SET next_stmt = r.to_stmt + 1
     WHERE pass_id = r.pass_id AND revoked_at IS NULL AND expires_at > clock_timestamp() AND next_stmt <= r.from_stmt
       AND NOT EXISTS (SELECT FROM unnest(p.gated) x WHERE x >= p.next_stmt AND x < r.from_stmt);
    IF NOT FOUND THEN CONTINUE; END IF;
    INSERT INTO vaultbrix.ddl_pass_use(pass_id, from_stmt, to_stmt, pid, message_ts, session_role, tag, objects)
      VALUES (r.pass_id, r.from_stmt, r.to_stmt, pg_backend_pid(), statement_timestamp(), session_user, p_tag, p_objects);
    IF r.rehearsal THEN INSERT INTO vaultbrix.rehearsal_use(pass_id) VALUES (r.pass_id); END IF;
    INSERT INTO vaultbrix.ddl_pass_drop(pass_id, object) SELECT r.pass_id, x FROM unnest(p_objects) x;
    RETURN r.pass_id;
  END LOOP;
  RETURN NULL;
END $$;

-- From here on the transaction of a rehearsal cannot be committed, whatever it does.
CREATE FUNCTION vaultbrix.begin_rehearsal(pass uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM vaultbrix.rehearsal JOIN vaultbrix.ddl_pass p USING (pass_id) WHERE pass_id = $1 AND p.login = session_user) THEN
    RAISE EXCEPTION 'no rehearsal % for %', $1, session_user USING ERRCODE = 'VBX03';
  END IF;
  INSERT INTO vaultbrix.rehearsal_use(pass_id) VALUES ($1);
END $$;
GRANT EXECUTE ON FUNCTION vaultbrix.begin_rehearsal(uuid) TO PUBLIC;

-- What uses of a pass dropped or emptied so far, for its own login within its open transaction.
CREATE FUNCTION vaultbrix.dropped(p_pass uuid) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM vaultbrix.ddl_pass WHERE pass_id = p_pass AND login = session_user) THEN
    RAISE EXCEPTION 'no pass % for %', p_pass, session_user USING ERRCODE = 'VBX03';
  END IF;
  RETURN QUERY SELECT object FROM vaultbrix.ddl_pass_drop WHERE pass_id = p_pass ORDER BY n;
END $$;

-- Locks the pass of the session's own login; raises VBX03 when it is another's, or a rehearsal, which leaves no record.
CREATE FUNCTION vaultbrix.own_pass(p_pass uuid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM vaultbrix.ddl_pass WHERE pass_id = p_pass AND login = session_user FOR NO KEY UPDATE;
  IF NOT FOUND OR EXISTS (SELECT FROM vaultbrix.rehearsal WHERE pass_id = p_pass) THEN RAISE EXCEPTION 'no pass % for %', p_pass, session_user USING ERRCODE = 'VBX03'; END IF;
END $$;
CREATE FUNCTION vaultbrix.lasting_pass(p_pass uuid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM vaultbrix.ddl_pass WHERE pass_id = p_pass AND revoked_at IS NULL AND expires_at > clock_timestamp();
  IF NOT FOUND THEN RAISE EXCEPTION 'pass % has ended', p_pass USING ERRCODE = 'VBX03'; END IF;
  -- What has begun in time may go on for as long as its login.
  UPDATE vaultbrix.ddl_pass SET expires_at = greatest(expires_at, (SELECT rolvaliduntil FROM pg_roles WHERE rolname = session_user))
   WHERE pass_id = p_pass;
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.begin_run(p_pass uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vaultbrix.own_pass(p_pass);
  IF EXISTS (SELECT FROM vaultbrix.ddl_run WHERE pass_id = p_pass) THEN RETURN false; END IF;
  PERFORM vaultbrix.lasting_pass(p_pass);
  INSERT INTO vaultbrix.ddl_run(pass_id, login) VALUES (p_pass, session_user) ON CONFLICT DO NOTHING;
  RETURN FOUND;
END $$;

-- Steps are written by the Job's own messages only: the text runs under the same login, and functions in it might pretend.
CREATE FUNCTION vaultbrix.own_message(p_text text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_query() IS DISTINCT FROM p_text THEN
    RAISE EXCEPTION 'steps are written by a message of their own, %', p_text USING ERRCODE = 'VBX03'; END IF;
END $$;

-- 'run': it is this session's to run now. 'done': it has taken effect. 'unknown': it was begun, and nobody said how it ended.
CREATE FUNCTION vaultbrix.begin_step(pass uuid, "position" int) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE finished timestamptz;
BEGIN
  PERFORM vaultbrix.own_message('SELECT vaultbrix.begin_step($1, $2)');
  PERFORM vaultbrix.own_pass($1);
  SELECT s.finished_at INTO finished FROM vaultbrix.ddl_step s WHERE s.pass_id = $1 AND s.position = $2;
  IF FOUND THEN RETURN CASE WHEN finished IS NULL THEN 'unknown' ELSE 'done' END; END IF;
  PERFORM vaultbrix.lasting_pass($1);
  INSERT INTO vaultbrix.ddl_step(pass_id, position) VALUES ($1, $2) ON CONFLICT DO NOTHING;
  -- Under REPEATABLE READ the row of another session is there without being seen.
  RETURN CASE WHEN FOUND THEN 'run' ELSE 'unknown' END;
END $$;

CREATE FUNCTION vaultbrix.end_step(pass uuid, "position" int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vaultbrix.own_message('SELECT vaultbrix.end_step($1, $2)');
  PERFORM vaultbrix.own_pass($1);
  UPDATE vaultbrix.ddl_step s SET finished_at = clock_timestamp() WHERE s.pass_id = $1 AND s.position = $2 AND s.finished_at IS NULL;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'step % of pass % is not running', $2, $1 USING ERRCODE = 'VBX03';
  END IF;
END $$;
GRANT EXECUTE ON FUNCTION vaultbrix.dropped(uuid), vaultbrix.begin_step(uuid, int), vaultbrix.end_step(uuid, int) TO PUBLIC;

-- Guards of the tables whose row in pg_class this transaction wrote, whoever owns them: a GRANT may have given a right
-- to truncate only there. Rows of other transactions that are as young are looked at too, to no harm.
CREATE FUNCTION vaultbrix.ensure_changed_guards() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE mine int := age(pg_current_xact_id()::xid);
BEGIN
  -- They are few, which the planner cannot know.
  PERFORM vaultbrix.ensure_guard(c.oid) FROM (
    WITH written AS MATERIALIZED (
      SELECT oid, relowner FROM pg_class WHERE relkind IN ('r','p') AND relpersistence <> 't' AND age(xmin) <= mine
         AND relnamespace <> 'pg_catalog'::regnamespace)
    SELECT w.oid FROM written w JOIN pg_roles r ON r.oid = w.relowner
     WHERE NOT r.rolsuper
       AND NOT EXISTS (SELECT FROM pg_trigger t WHERE tgrelid = w.oid AND tgname = 'vaultbrix_truncate_guard' AND tgenabled = 'A'
                        AND tgfoid = 'vaultbrix.guard_truncate()'::regprocedure AND tgtype = 34 AND tgqual IS NULL)) c;
END $$;

-- As in 0002: CREATE OR REPLACE has reset it.
DO $$
DECLARE f oid;
BEGIN
  FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'vaultbrix'::regnamespace AND prosecdef LOOP
    EXECUTE format('ALTER FUNCTION %s SET pgaudit.log = %L', f::regprocedure, 'none');
  END LOOP;
END $$;
RESET ROLE;
