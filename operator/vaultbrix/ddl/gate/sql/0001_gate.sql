-- The gate: event triggers that refuse destructive DDL unless a pass for exactly that text is open.
-- Runs as a superuser in the tenants' database; PostgreSQL 15 or later. Everything belongs to vaultbrix_gate,
-- a superuser that cannot log in and owns nothing else.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname='vaultbrix_gate') THEN CREATE ROLE vaultbrix_gate SUPERUSER NOLOGIN; END IF;
END $$;
ALTER SCHEMA vaultbrix OWNER TO vaultbrix_gate;
ALTER TABLE vaultbrix.migration OWNER TO vaultbrix_gate;
REVOKE ALL ON SCHEMA vaultbrix FROM PUBLIC;
GRANT USAGE ON SCHEMA vaultbrix TO PUBLIC;          -- invoker wrappers must resolve the helpers
SET ROLE vaultbrix_gate;
ALTER DEFAULT PRIVILEGES FOR ROLE vaultbrix_gate REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

CREATE TABLE vaultbrix.exempt_role(role_name name PRIMARY KEY);
CREATE TABLE vaultbrix.ddl_pass(
  pass_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), role_name name NOT NULL,
  login name,                     -- the only session_user that may use it; NULL = any member of role_name
  approved_by text NOT NULL,
  expires_at timestamptz NOT NULL, revoked_at timestamptz,
  gated int[] NOT NULL,           -- positions (1-based) of the approved statements that the gate will see
  next_stmt int NOT NULL DEFAULT 1, -- moves forward only: order, replay and double spending in one number
  lexer_safe boolean NOT NULL DEFAULT false, -- set by the control plane: no plain '...' constant holds a backslash
  schemas name[],                 -- expected current_schemas(false); NULL = do not check
  allow_nested boolean NOT NULL DEFAULT false,
  expect_drops text[]             -- identities the approver saw; NULL = do not check
);
CREATE TABLE vaultbrix.ddl_pass_text(  -- one row per contiguous run of approved statements = one possible client message
  pass_id uuid NOT NULL REFERENCES vaultbrix.ddl_pass ON DELETE CASCADE, from_stmt int NOT NULL, to_stmt int NOT NULL CHECK (to_stmt >= from_stmt),
  sha256 bytea NOT NULL, PRIMARY KEY (pass_id, from_stmt, to_stmt, sha256));
CREATE INDEX ON vaultbrix.ddl_pass_text(sha256);
CREATE TABLE vaultbrix.ddl_pass_use(
  pass_id uuid NOT NULL, from_stmt int NOT NULL, to_stmt int NOT NULL, pid int NOT NULL, message_ts timestamptz NOT NULL,
  session_role name NOT NULL, tag text NOT NULL, objects text[], used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (pass_id, from_stmt, to_stmt, pid, message_ts));

CREATE FUNCTION vaultbrix.norm(q text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS
$$ SELECT btrim(replace(q, chr(13)||chr(10), chr(10)), ' ;'||chr(9)||chr(10)||chr(13)||chr(12)) $$;

CREATE FUNCTION vaultbrix.is_exempt(r name) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS
$$ SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = r AND rolsuper) OR EXISTS (SELECT FROM vaultbrix.exempt_role WHERE role_name = r) $$;

CREATE FUNCTION vaultbrix.use_pass(p_tag text, p_nested boolean, p_schemas name[], p_consume boolean, p_objects text[])
RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE q text := current_query(); h bytea; r record;
BEGIN
  IF q IS NULL OR current_setting('standard_conforming_strings') <> 'on' THEN RETURN NULL; END IF;
  h := sha256(convert_to(vaultbrix.norm(q), 'UTF8'));
  FOR r IN SELECT p.pass_id, t.from_stmt, t.to_stmt, p.next_stmt,
                  EXISTS (SELECT FROM unnest(p.gated) x WHERE x >= p.next_stmt AND x < t.from_stmt) AS skips
             FROM vaultbrix.ddl_pass_text t JOIN vaultbrix.ddl_pass p USING (pass_id)
            WHERE t.sha256 = h AND p.revoked_at IS NULL AND p.expires_at > clock_timestamp()
              AND EXISTS (SELECT FROM pg_roles pr WHERE pr.rolname = p.role_name AND pg_has_role(session_user, pr.oid, 'MEMBER'))
              AND (p.login IS NULL OR p.login = session_user)
              AND (p.allow_nested OR NOT p_nested)
              AND (p.lexer_safe OR strpos(q, chr(92)) = 0)   -- standard_conforming_strings=off would re-lex the same bytes
              AND (p.schemas IS NULL OR p.schemas = p_schemas)
              AND (p.expect_drops IS NULL OR p_objects IS NULL OR p_objects <@ p.expect_drops)
            ORDER BY p.expires_at, p.pass_id, t.from_stmt, t.to_stmt
  LOOP
    -- further firings of the same client message are one use (statement_timestamp is set once per message)
    IF EXISTS (SELECT FROM vaultbrix.ddl_pass_use u WHERE u.pass_id = r.pass_id AND u.from_stmt = r.from_stmt AND u.to_stmt = r.to_stmt
                AND u.pid = pg_backend_pid() AND u.message_ts = statement_timestamp()) THEN RETURN r.pass_id; END IF;
    IF r.from_stmt < r.next_stmt OR r.skips THEN CONTINUE; END IF;
    IF NOT p_consume THEN RETURN r.pass_id; END IF;
    UPDATE vaultbrix.ddl_pass p SET next_stmt = r.to_stmt + 1
     WHERE pass_id = r.pass_id AND revoked_at IS NULL AND expires_at > clock_timestamp() AND next_stmt <= r.from_stmt
       AND NOT EXISTS (SELECT FROM unnest(p.gated) x WHERE x >= p.next_stmt AND x < r.from_stmt);
    IF NOT FOUND THEN CONTINUE; END IF;
    INSERT INTO vaultbrix.ddl_pass_use(pass_id, from_stmt, to_stmt, pid, message_ts, session_role, tag, objects)
      VALUES (r.pass_id, r.from_stmt, r.to_stmt, pg_backend_pid(), statement_timestamp(), session_user, p_tag, p_objects);
    RETURN r.pass_id;
  END LOOP;
  RETURN NULL;
END $$;

CREATE FUNCTION vaultbrix.deny(p_tag text, p_actor name, p_nested boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION '% requires an approved DDLApproval (role %)', p_tag, p_actor USING ERRCODE = 'VBX01',
    DETAIL = 'sha256(normalised text) = ' || coalesce(encode(sha256(convert_to(vaultbrix.norm(current_query()), 'UTF8')), 'hex'), 'none')
             || CASE WHEN p_nested THEN '; issued inside a function, trigger or DO block' ELSE '' END,
    HINT = 'Create a DDLApproval with exactly this SQL, have an admin approve it, then run it again unchanged before the pass expires.';
END $$;

CREATE FUNCTION vaultbrix.ddl_start(p_tag text, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0;
BEGIN
  IF (p_tag ^@ 'CREATE ' AND p_tag <> 'CREATE RULE') OR p_tag ^@ 'GRANT' OR p_tag ^@ 'REVOKE' OR p_tag ^@ 'COMMENT'
     OR p_tag ^@ 'REFRESH ' OR p_tag = 'SELECT INTO' THEN RETURN; END IF;        -- everything else is gated
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  IF vaultbrix.use_pass(p_tag, nested, p_schemas, false, NULL) IS NOT NULL THEN RETURN; END IF;
  -- the target is not known here; with a temp schema open, decide at sql_drop / ddl_command_end instead
  IF pg_my_temp_schema() <> 0 AND p_tag = ANY (ARRAY['DROP TABLE','DROP INDEX','DROP SEQUENCE','DROP VIEW','DROP TRIGGER','DROP FUNCTION',
       'DROP TYPE','ALTER TABLE','ALTER INDEX','ALTER SEQUENCE','ALTER VIEW']) THEN RETURN; END IF;
  PERFORM vaultbrix.deny(p_tag, p_actor, nested);
END $$;

CREATE FUNCTION vaultbrix.sql_drop(p_tag text, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0; objs text[];
BEGIN
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  SELECT array_agg(object_type || ' ' || object_identity) INTO objs FROM pg_event_trigger_dropped_objects() d
   WHERE NOT is_temporary AND NOT (object_type = 'trigger' AND object_name IS NOT DISTINCT FROM 'vaultbrix_truncate_guard');
  IF objs IS NULL AND NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN RETURN; END IF;
  IF vaultbrix.use_pass(p_tag, nested, p_schemas, true, objs) IS NULL THEN PERFORM vaultbrix.deny(p_tag, p_actor, nested); END IF;
END $$;

CREATE FUNCTION vaultbrix.guard_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE ctx text;
BEGIN
  GET DIAGNOSTICS ctx = PG_CONTEXT;
  PERFORM vaultbrix.truncate_check(TG_RELID, current_user, ctx, pg_catalog.current_schemas(false));
  RETURN NULL;
END $$;
CREATE FUNCTION vaultbrix.truncate_check(p_rel oid, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0;
BEGIN
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  IF vaultbrix.use_pass('TRUNCATE', nested, p_schemas, true, ARRAY['truncate ' || p_rel::regclass::text]) IS NULL THEN
    PERFORM vaultbrix.deny('TRUNCATE', p_actor, nested); END IF;
END $$;

CREATE FUNCTION vaultbrix.ensure_guard(p_rel oid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE n text; s text; o name; tmp boolean; tg record;
BEGIN
  SELECT nspname, relname, pg_get_userbyid(relowner), relpersistence = 't' INTO s, n, o, tmp FROM pg_class c JOIN pg_namespace ns ON ns.oid = relnamespace
   WHERE c.oid = p_rel AND relkind IN ('r','p');
  IF NOT FOUND THEN RETURN; END IF;
  IF tmp THEN                                            -- temp tables stay free: only undo the default-privilege REVOKE
    IF NOT has_table_privilege(o, p_rel, 'TRUNCATE') THEN EXECUTE format('GRANT TRUNCATE ON %I.%I TO %I', s, n, o); END IF;
    RETURN;
  END IF;
  SELECT tgenabled, tgfoid, tgtype, tgqual INTO tg FROM pg_trigger WHERE tgrelid = p_rel AND tgname = 'vaultbrix_truncate_guard';
  IF NOT FOUND OR tg.tgfoid <> 'vaultbrix.guard_truncate()'::regprocedure OR tg.tgtype <> 34 OR tg.tgqual IS NOT NULL THEN
    EXECUTE format('CREATE OR REPLACE TRIGGER vaultbrix_truncate_guard BEFORE TRUNCATE ON %I.%I FOR EACH STATEMENT EXECUTE FUNCTION vaultbrix.guard_truncate()', s, n);
    EXECUTE format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER vaultbrix_truncate_guard', s, n);
    IF NOT has_table_privilege(o, p_rel, 'TRUNCATE') THEN EXECUTE format('GRANT TRUNCATE ON %I.%I TO %I', s, n, o); END IF;
  ELSIF tg.tgenabled <> 'A' THEN
    EXECUTE format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER vaultbrix_truncate_guard', s, n);
  END IF;
END $$;
-- The tables of one role: waiting for a lock on another's would let one tenant hold up all.
CREATE FUNCTION vaultbrix.ensure_guards(p_owner name) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vaultbrix.ensure_guard(c.oid) FROM pg_class c JOIN pg_roles r ON r.oid = relowner
    WHERE r.rolname = p_owner AND relkind IN ('r','p') AND relpersistence <> 't' AND NOT rolsuper AND relnamespace <> 'pg_catalog'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_trigger t WHERE tgrelid = c.oid AND tgname = 'vaultbrix_truncate_guard' AND tgenabled = 'A'
                       AND tgfoid = 'vaultbrix.guard_truncate()'::regprocedure AND tgtype = 34 AND tgqual IS NULL);
END $$;

CREATE FUNCTION vaultbrix.ddl_end(p_tag text, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0; r record; n int := 0; perm int := 0;
BEGIN
  IF p_actor = 'vaultbrix_gate' THEN RETURN; END IF;
  IF p_tag IN ('CREATE TABLE','CREATE TABLE AS','SELECT INTO','CREATE SCHEMA','IMPORT FOREIGN SCHEMA') THEN
    PERFORM vaultbrix.ensure_guard(objid) FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table';
    RETURN;
  END IF;
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  IF p_tag = 'CREATE TRIGGER' THEN
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d JOIN pg_trigger t ON t.oid = d.objid
                WHERE d.object_type = 'trigger' AND t.tgname ^@ 'vaultbrix') THEN
      RAISE EXCEPTION 'trigger names starting with vaultbrix are reserved' USING ERRCODE = 'VBX02'; END IF;
  ELSIF p_tag IN ('GRANT','REVOKE') THEN PERFORM vaultbrix.ensure_guards(p_actor);
  ELSIF p_tag ^@ 'ALTER ' OR p_tag = 'CREATE RULE' THEN
    FOR r IN SELECT schema_name, object_identity FROM pg_event_trigger_ddl_commands() LOOP
      n := n + 1; IF r.schema_name IS DISTINCT FROM 'pg_temp' THEN perm := perm + 1; END IF;
    END LOOP;
    -- REFRESH MATERIALIZED VIEW CONCURRENTLY alters its own temp table through C-level SPI, with command collection off
    IF n = 0 AND p_ctx ~ '^[^[:cntrl:]]*[[:cntrl:]]SQL statement "ALTER TABLE pg_temp_[0-9]+[.]pg_temp_[0-9]+_2 ADD COLUMN newdata [^;[:cntrl:]]*"$' THEN RETURN; END IF;
    IF n = 0 OR perm > 0 THEN
      IF vaultbrix.use_pass(p_tag, nested, p_schemas, true, NULL) IS NULL THEN PERFORM vaultbrix.deny(p_tag, p_actor, nested); END IF;
      PERFORM vaultbrix.ensure_guards(p_actor);
    END IF;
  ELSIF p_tag ^@ 'DROP ' THEN
    PERFORM vaultbrix.ensure_guards(p_actor);
  END IF;
END $$;

-- thin INVOKER wrappers: they see the real current_user, search_path and call stack; they use no operator and only qualified names
CREATE FUNCTION vaultbrix.et_start() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE ctx text; BEGIN GET DIAGNOSTICS ctx = PG_CONTEXT;
PERFORM vaultbrix.ddl_start(tg_tag, current_user, ctx, pg_catalog.current_schemas(false)); END $$;
CREATE FUNCTION vaultbrix.et_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE ctx text; BEGIN GET DIAGNOSTICS ctx = PG_CONTEXT;
PERFORM vaultbrix.sql_drop(tg_tag, current_user, ctx, pg_catalog.current_schemas(false)); END $$;
CREATE FUNCTION vaultbrix.et_end() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE ctx text; BEGIN GET DIAGNOSTICS ctx = PG_CONTEXT;
PERFORM vaultbrix.ddl_end(tg_tag, current_user, ctx, pg_catalog.current_schemas(false)); END $$;
GRANT EXECUTE ON FUNCTION vaultbrix.ddl_start(text,name,text,name[]), vaultbrix.sql_drop(text,name,text,name[]),
  vaultbrix.ddl_end(text,name,text,name[]), vaultbrix.truncate_check(oid,name,text,name[]) TO PUBLIC;
CREATE EVENT TRIGGER vaultbrix_start ON ddl_command_start EXECUTE FUNCTION vaultbrix.et_start();
CREATE EVENT TRIGGER vaultbrix_drop  ON sql_drop          EXECUTE FUNCTION vaultbrix.et_drop();
CREATE EVENT TRIGGER vaultbrix_end   ON ddl_command_end   EXECUTE FUNCTION vaultbrix.et_end();
ALTER EVENT TRIGGER vaultbrix_start ENABLE ALWAYS;
ALTER EVENT TRIGGER vaultbrix_drop  ENABLE ALWAYS;
ALTER EVENT TRIGGER vaultbrix_end   ENABLE ALWAYS;
SELECT vaultbrix.ensure_guards(rolname) FROM pg_roles WHERE NOT rolsuper AND rolname NOT LIKE 'pg\_%';
RESET ROLE;
