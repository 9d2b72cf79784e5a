-- The four functions that any session may call, since the gate's triggers call them with the rights of whoever runs the
-- statement, believe nobody who names another as the actor: a tenant would have another's tables locked.
SET ROLE vaultbrix_gate;

-- A statement at the top of a message runs as the session's user, or as a role that it has taken on. Within a function
-- it may run as the function's owner; such a statement is judged by its pass alone, and nothing is locked for it. What
-- runs as an exempt role, as the script of a trusted extension does, is not looked at any further.
CREATE FUNCTION vaultbrix.check_actor(p_actor name, p_nested boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT p_nested AND NOT vaultbrix.is_exempt(p_actor) AND NOT pg_has_role(session_user, p_actor, 'MEMBER') THEN
    RAISE EXCEPTION '% is not a member of %', session_user, p_actor USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

CREATE FUNCTION vaultbrix.ensure_own_guards(p_actor name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF pg_has_role(session_user, p_actor, 'MEMBER') THEN PERFORM vaultbrix.ensure_guards(p_actor); END IF;
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.ddl_start(p_tag text, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0;
BEGIN
  PERFORM vaultbrix.check_actor(p_actor, nested);
  -- REINDEX fires events since PostgreSQL 17; it loses nothing.
  IF (p_tag ^@ 'CREATE ' AND p_tag <> 'CREATE RULE') OR p_tag ^@ 'GRANT' OR p_tag ^@ 'REVOKE' OR p_tag ^@ 'COMMENT'
     OR p_tag ^@ 'REFRESH ' OR p_tag IN ('SELECT INTO', 'REINDEX') THEN RETURN; END IF;        -- everything else is gated
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  IF vaultbrix.use_pass(p_tag, nested, p_schemas, false, NULL) IS NOT NULL THEN RETURN; END IF;
  -- An older snapshot than the statement's own would miss what others have added meanwhile.
  IF NOT nested AND p_tag IN ('ALTER TABLE', 'ALTER TYPE') AND current_query() IS NOT NULL
     AND current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')
     AND EXISTS (SELECT FROM vaultbrix.additive_role WHERE role_name = p_actor) THEN
    PERFORM vaultbrix.watch(p_tag, p_actor);
    RETURN;
  END IF;
  -- the target is not known here; with a temp schema open, decide at sql_drop / ddl_command_end instead
  IF pg_my_temp_schema() <> 0 AND p_tag = ANY (ARRAY['DROP TABLE','DROP INDEX','DROP SEQUENCE','DROP VIEW','DROP TRIGGER','DROP FUNCTION',
       'DROP TYPE','ALTER TABLE','ALTER INDEX','ALTER SEQUENCE','ALTER VIEW']) THEN RETURN; END IF;
  PERFORM vaultbrix.deny(p_tag, p_actor, nested);
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.sql_drop(p_tag text, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0; objs text[];
BEGIN
  PERFORM vaultbrix.check_actor(p_actor, nested);
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  -- A trigger's own name is the last of its address. Guards and the places of long values go with their tables, are
  -- none of the approver's business, and the latter have another name each time.
  SELECT array_agg(object_type || ' ' || object_identity) INTO objs FROM pg_event_trigger_dropped_objects() d
   WHERE NOT is_temporary AND schema_name IS DISTINCT FROM 'pg_toast'
     AND NOT (object_type = 'trigger' AND address_names[3] IS NOT DISTINCT FROM 'vaultbrix_truncate_guard');
  IF objs IS NULL AND NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN RETURN; END IF;
  IF NOT nested AND EXISTS (SELECT FROM vaultbrix.attempt WHERE pid = pg_backend_pid()) THEN
    -- A column's default is no data; what else the statement does is judged at its end.
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary AND object_type <> 'default value') THEN
      PERFORM vaultbrix.deny(p_tag, p_actor, false, 'it drops ' || coalesce(objs[1], 'a guard'));
    END IF;
    RETURN;
  END IF;
  IF vaultbrix.use_pass(p_tag, nested, p_schemas, true, objs) IS NULL THEN PERFORM vaultbrix.deny(p_tag, p_actor, nested); END IF;
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.truncate_check(p_rel oid, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0;
BEGIN
  PERFORM vaultbrix.check_actor(p_actor, nested);
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  IF vaultbrix.use_pass('TRUNCATE', nested, p_schemas, true, ARRAY['truncate ' || p_rel::regclass::text]) IS NULL THEN
    PERFORM vaultbrix.deny('TRUNCATE', p_actor, nested); END IF;
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.ddl_end(p_tag text, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0; r record; n int := 0; perm int := 0;
BEGIN
  PERFORM vaultbrix.check_actor(p_actor, nested);
  IF p_actor = 'vaultbrix_gate' THEN RETURN; END IF;
  IF NOT vaultbrix.is_exempt(p_actor) THEN PERFORM vaultbrix.refuse_dependence_on_temporary(); END IF;
  IF p_tag IN ('CREATE TABLE','CREATE TABLE AS','SELECT INTO','CREATE SCHEMA','IMPORT FOREIGN SCHEMA') THEN
    PERFORM vaultbrix.ensure_guard(objid) FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table';
    RETURN;
  END IF;
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  IF p_tag = 'CREATE TRIGGER' THEN
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d JOIN pg_trigger t ON t.oid = d.objid
                WHERE d.object_type = 'trigger' AND t.tgname ^@ 'vaultbrix') THEN
      RAISE EXCEPTION 'trigger names starting with vaultbrix are reserved' USING ERRCODE = 'VBX02'; END IF;
  ELSIF p_tag IN ('GRANT','REVOKE') THEN PERFORM vaultbrix.ensure_changed_guards();
  ELSIF NOT nested AND p_tag ^@ 'ALTER ' AND EXISTS (SELECT FROM vaultbrix.attempt WHERE pid = pg_backend_pid()) THEN
    PERFORM vaultbrix.judge(p_tag, p_actor);
  ELSIF p_tag ^@ 'ALTER ' OR p_tag = 'CREATE RULE' THEN
    FOR r IN SELECT schema_name, object_identity FROM pg_event_trigger_ddl_commands() LOOP
      n := n + 1; IF r.schema_name IS DISTINCT FROM 'pg_temp' THEN perm := perm + 1; END IF;
    END LOOP;
    -- REFRESH MATERIALIZED VIEW CONCURRENTLY alters its own temp table through C-level SPI, with command collection off
    IF n = 0 AND p_ctx ~ '^[^[:cntrl:]]*[[:cntrl:]]SQL statement "ALTER TABLE pg_temp_[0-9]+[.]pg_temp_[0-9]+_2 ADD COLUMN newdata [^;[:cntrl:]]*"$' THEN RETURN; END IF;
    IF n = 0 OR perm > 0 THEN
      IF vaultbrix.use_pass(p_tag, nested, p_schemas, true, NULL) IS NULL THEN PERFORM vaultbrix.deny(p_tag, p_actor, nested); END IF;
      PERFORM vaultbrix.ensure_own_guards(p_actor);
    END IF;
  ELSIF p_tag ^@ 'DROP ' THEN
    -- Without a pass, only what is temporary went.
    IF EXISTS (SELECT FROM vaultbrix.ddl_pass_use WHERE pid = pg_backend_pid() AND message_ts = statement_timestamp()) THEN
      PERFORM vaultbrix.ensure_own_guards(p_actor);
    END IF;
  END IF;
END $$;
RESET ROLE;
