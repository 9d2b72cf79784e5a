-- The gate judges by effect: what existed before the transaction and is lost needs a pass; what loses nothing is free. What
-- cannot be judged so is refused at its start, as before.
SET ROLE vaultbrix_gate;

-- Thin INVOKER wrappers, as in 0001. What the gate itself does at the end of a command is not looked at: nobody can act as
-- its role. STABLE: what they hand on is of before the command; the helpers that write see it done. Most commands are
-- judged at their end alone: REINDEX, which fires events since PostgreSQL 17, loses nothing.
CREATE OR REPLACE FUNCTION vaultbrix.et_start() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE ctx text; BEGIN
IF current_user OPERATOR(pg_catalog.=) 'vaultbrix_gate'::pg_catalog.name
  OR (pg_catalog.starts_with(tg_tag, 'CREATE ') AND tg_tag OPERATOR(pg_catalog.<>) 'CREATE RULE')
  OR pg_catalog.starts_with(tg_tag, 'GRANT') OR pg_catalog.starts_with(tg_tag, 'REVOKE')
  OR pg_catalog.starts_with(tg_tag, 'COMMENT') OR pg_catalog.starts_with(tg_tag, 'REFRESH ')
  OR tg_tag OPERATOR(pg_catalog.=) 'SELECT INTO' OR tg_tag OPERATOR(pg_catalog.=) 'REINDEX' THEN RETURN; END IF;
GET DIAGNOSTICS ctx = PG_CONTEXT;
PERFORM vaultbrix.ddl_start(tg_tag, current_user, ctx, pg_catalog.current_schemas(false)); END $$;
CREATE OR REPLACE FUNCTION vaultbrix.et_drop() RETURNS event_trigger LANGUAGE plpgsql STABLE AS $$
DECLARE ctx text; BEGIN
IF current_user OPERATOR(pg_catalog.=) 'vaultbrix_gate'::pg_catalog.name THEN RETURN; END IF;
GET DIAGNOSTICS ctx = PG_CONTEXT;
PERFORM vaultbrix.sql_drop(tg_tag, current_user, ctx, pg_catalog.current_schemas(false), vaultbrix.lost(current_user)); END $$;
CREATE OR REPLACE FUNCTION vaultbrix.et_end() RETURNS event_trigger LANGUAGE plpgsql STABLE AS $$
DECLARE ctx text; BEGIN
IF current_user OPERATOR(pg_catalog.=) 'vaultbrix_gate'::pg_catalog.name THEN RETURN; END IF;
GET DIAGNOSTICS ctx = PG_CONTEXT;
PERFORM vaultbrix.ddl_end(tg_tag, current_user, ctx, pg_catalog.current_schemas(false), vaultbrix.before(tg_tag, current_user)); END $$;

-- A text may swallow its refusal, and with it whatever is left in the database: Jobs and rehearsals are told by a message
-- that has been sent by then, whatever level of messages the text asked for.
CREATE OR REPLACE FUNCTION vaultbrix.deny(p_tag text, p_actor name, p_nested boolean, p_why text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = 'warning' AS $$
BEGIN
  IF EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles j ON j.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
              WHERE j.rolname = 'vaultbrix_jobs' AND u.rolname = session_user) THEN
    RAISE WARNING '% was refused', p_tag USING ERRCODE = 'VBX01';
  END IF;
  RAISE EXCEPTION '% requires an approved DDLApproval (role %)', p_tag, p_actor USING ERRCODE = 'VBX01',
    DETAIL = 'sha256(normalised text) = ' || coalesce(encode(sha256(convert_to(vaultbrix.norm(current_query()), 'UTF8')), 'hex'), 'none')
             || CASE WHEN p_nested THEN '; issued inside a function, trigger or DO block' ELSE '' END
             || coalesce('; ' || p_why, ''),
    HINT = 'Create a DDLApproval with exactly this SQL, have an admin approve it, then run it again unchanged before the pass expires.';
END $$;

-- Commands that are judged by their effect. Each of them ends with its transaction still open, but for the two forms with
-- CONCURRENTLY, which do not run within anything else; and all that it drops or alters is told by PostgreSQL, or can be seen
-- in the catalogs.
CREATE FUNCTION vaultbrix.by_effect(p_tag text, p_nested boolean) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE kind text := substring(p_tag FROM '^(?:ALTER|DROP) (.*)$');
BEGIN
  IF p_tag = 'CREATE RULE' THEN RETURN true; END IF;
  -- Unlike a name, a keyword can be written in one way only.
  IF p_tag IN ('DROP INDEX', 'ALTER TABLE') AND NOT p_nested AND coalesce(current_query() ~* 'concurrently', true) THEN RETURN false; END IF;
  RETURN coalesce(kind IN ('TABLE', 'INDEX', 'SEQUENCE', 'VIEW', 'MATERIALIZED VIEW', 'FOREIGN TABLE', 'TYPE', 'DOMAIN',
      'FUNCTION', 'PROCEDURE', 'ROUTINE', 'AGGREGATE', 'TRIGGER', 'RULE', 'POLICY', 'STATISTICS', 'COLLATION', 'CONVERSION',
      'OPERATOR', 'OPERATOR CLASS', 'OPERATOR FAMILY', 'TEXT SEARCH CONFIGURATION', 'TEXT SEARCH DICTIONARY')
    OR p_tag IN ('DROP SCHEMA', 'DROP EXTENSION', 'DROP CAST'), false);
END $$;

DROP FUNCTION vaultbrix.watch(text, name), vaultbrix.judge(text, name), vaultbrix.image(oid[], oid[]);

-- Why an ALTER needs a pass, in words; NULL where it changed nothing, such as DROP COLUMN IF EXISTS of none, and under the
-- additive policy where it did no more than add.
CREATE FUNCTION vaultbrix.why_refused(p_before jsonb, p_may_add boolean) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE altered text := 'it would alter ' || coalesce(p_before->>'altered', 'what existed before');
        tables oid[] := ARRAY(SELECT jsonb_array_elements_text(p_before->'tables'))::oid[];
        types oid[] := ARRAY(SELECT jsonb_array_elements_text(p_before->'types'))::oid[];
        another text; kept text[]; was jsonb; becomes jsonb;
BEGIN
  IF NOT p_before ? 'image' THEN RETURN altered; END IF;
  SELECT min(command_tag || ' ' || object_identity) INTO another FROM pg_event_trigger_ddl_commands()
   WHERE NOT coalesce((command_tag = 'ALTER TABLE' AND classid = 'pg_class'::regclass AND objid = ANY (tables))
     OR (command_tag = 'ALTER TYPE' AND classid = 'pg_type'::regclass AND objid = ANY (types))
     OR (command_tag = 'CREATE INDEX' AND EXISTS (SELECT FROM pg_index WHERE indexrelid = objid AND indrelid = ANY (tables))), false);
  kept := ARRAY(SELECT key FROM jsonb_each(p_before->'image') WHERE value = 'null');
  was := (p_before->'image') - kept;
  becomes := vaultbrix.image(tables, types, ARRAY(SELECT jsonb_array_elements_text(p_before->'own'))::xid[], false) - kept;
  IF another IS NULL AND was = '{}' AND becomes = '{}' THEN RETURN NULL; END IF;
  IF NOT p_may_add THEN RETURN altered; END IF;
  RETURN 'not merely additive: ' || coalesce(another, vaultbrix.harm(was, becomes));
END $$;

-- Whether the command was about something that existed before. What was made and something of before may also be parts of
-- one another, and the command reaches both.
CREATE FUNCTION vaultbrix.concerns_existing() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM pg_event_trigger_ddl_commands() d LEFT JOIN LATERAL vaultbrix.whole(d.classid, d.objid) w ON d.classid IS NOT NULL
     WHERE d.schema_name IS DISTINCT FROM 'pg_temp' AND (
      d.classid IS NULL OR vaultbrix.existed(d.classid, d.objid)
      OR EXISTS (
        SELECT FROM pg_inherits i
         WHERE ((d.classid = 'pg_class'::regclass AND d.objid IN (i.inhrelid, i.inhparent))
             OR (w.classid = 'pg_class'::regclass AND w.objid IN (i.inhrelid, i.inhparent)))
           AND (vaultbrix.existed('pg_class'::regclass, i.inhrelid) OR vaultbrix.existed('pg_class'::regclass, i.inhparent)))
      OR d.command_tag = 'ALTER TYPE' AND EXISTS (
        SELECT FROM pg_class c WHERE c.reloftype = w.objid AND vaultbrix.existed('pg_class'::regclass, c.oid))));
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.ddl_start(p_tag text, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0;
BEGIN
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  PERFORM vaultbrix.check_actor(p_actor, nested);
  -- A rehearsal is marked here, and the approver put on record.
  IF vaultbrix.use_pass(p_tag, nested, p_schemas, false, NULL) IS NOT NULL OR vaultbrix.by_effect(p_tag, nested) THEN RETURN; END IF;
  PERFORM vaultbrix.deny(p_tag, p_actor, nested);
END $$;

DROP FUNCTION vaultbrix.sql_drop(text, name, text, name[]);
CREATE FUNCTION vaultbrix.sql_drop(p_tag text, p_actor name, p_ctx text, p_schemas name[], p_lost text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0;
BEGIN
  PERFORM vaultbrix.check_actor(p_actor, nested);
  -- This raises outside of an event trigger.
  DELETE FROM vaultbrix.made m USING pg_event_trigger_dropped_objects() d
   WHERE m.xid = pg_current_xact_id_if_assigned() AND m.classid = d.classid AND m.objid = d.objid AND d.objsubid = 0;
  IF p_lost IS NULL OR vaultbrix.use_pass(p_tag, nested, p_schemas, true, p_lost) IS NOT NULL THEN RETURN; END IF;
  -- A column's default is no data; what else the statement does is judged at its end.
  IF vaultbrix.may_add(p_tag, p_actor, nested) THEN
    IF NOT EXISTS (SELECT FROM unnest(p_lost) o WHERE NOT o ^@ 'default value ') THEN RETURN; END IF;
    PERFORM vaultbrix.deny(p_tag, p_actor, nested, 'not merely additive: it drops ' || p_lost[1]);
  END IF;
  PERFORM vaultbrix.deny(p_tag, p_actor, nested, 'it would lose ' || array_to_string(p_lost[:5], ', ')
    || CASE WHEN cardinality(p_lost) > 5 THEN format(' and %s more', cardinality(p_lost) - 5) ELSE '' END);
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.truncate_check(p_rel oid, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0;
BEGIN
  PERFORM vaultbrix.check_actor(p_actor, nested);
  IF vaultbrix.is_exempt(p_actor) THEN RETURN; END IF;
  IF vaultbrix.use_pass('TRUNCATE', nested, p_schemas, true, ARRAY['truncate ' || p_rel::regclass::text]) IS NULL
     AND vaultbrix.existed('pg_class'::regclass, p_rel)
     AND NOT EXISTS (SELECT FROM vaultbrix.rebuildable_of(ARRAY[p_rel], p_actor)) THEN
    PERFORM vaultbrix.deny('TRUNCATE', p_actor, nested, 'it would empty table ' || p_rel::regclass::text);
  END IF;
END $$;

DROP FUNCTION vaultbrix.ddl_end(text, name, text, name[]);
CREATE FUNCTION vaultbrix.ddl_end(p_tag text, p_actor name, p_ctx text, p_schemas name[], p_before jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0; exempt boolean := vaultbrix.is_exempt(p_actor);
        told int; lasting int; why text;
BEGIN
  IF NOT exempt THEN PERFORM vaultbrix.check_actor(p_actor, nested); END IF;
  SELECT count(*), count(*) FILTER (WHERE schema_name IS DISTINCT FROM 'pg_temp') INTO told, lasting FROM pg_event_trigger_ddl_commands();
  IF NOT exempt THEN
    IF (told = 0 OR lasting > 0) AND pg_my_temp_schema() <> 0 THEN PERFORM vaultbrix.refuse_dependence_on_temporary(); END IF;
    IF lasting > 0 AND p_tag NOT IN ('GRANT', 'REVOKE', 'COMMENT') THEN
      -- What a statement may have replaced under an older snapshot than its own is not known.
      INSERT INTO vaultbrix.made(xid, classid, objid)
        SELECT pg_current_xact_id(), classid, objid FROM pg_event_trigger_ddl_commands()
         WHERE (command_tag ^@ 'CREATE ' OR command_tag = 'SELECT INTO') AND schema_name IS DISTINCT FROM 'pg_temp'
           AND classid IS NOT NULL AND objsubid = 0 AND NOT in_extension
           AND command_tag NOT IN ('CREATE RULE', 'CREATE LANGUAGE', 'CREATE TRANSFORM', 'CREATE OPERATOR', 'CREATE EXTENSION', 'CREATE SCHEMA')
           AND (command_tag NOT IN ('CREATE FUNCTION', 'CREATE PROCEDURE', 'CREATE AGGREGATE', 'CREATE VIEW', 'CREATE TRIGGER')
                OR current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')
                    AND jsonb_typeof(p_before) = 'array' AND NOT p_before ? objid::text)
      ON CONFLICT DO NOTHING;
    END IF;
  END IF;
  IF p_tag IN ('CREATE TABLE','CREATE TABLE AS','SELECT INTO','CREATE SCHEMA','IMPORT FOREIGN SCHEMA') THEN
    PERFORM vaultbrix.ensure_guard(objid) FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table';
    RETURN;
  END IF;
  IF exempt THEN RETURN; END IF;
  -- PostgreSQL tells nothing of what a command within a refresh did; these do something, always.
  IF told = 0 AND p_tag IN ('CREATE TRIGGER', 'CREATE RULE') THEN
    PERFORM vaultbrix.deny(p_tag, p_actor, nested, 'its effect is unknown');
  END IF;
  IF p_tag IN ('CREATE TRIGGER', 'ALTER TRIGGER') AND EXISTS (
      SELECT FROM pg_event_trigger_ddl_commands() d JOIN pg_trigger t ON t.oid = d.objid
       WHERE d.object_type = 'trigger' AND t.tgname ^@ 'vaultbrix') THEN
    RAISE EXCEPTION 'trigger names starting with vaultbrix are reserved' USING ERRCODE = 'VBX02';
  END IF;
  IF p_tag IN ('GRANT','REVOKE') THEN
    -- A table that may be emptied has a guard. A privilege is a name and can be written in many ways.
    IF nested OR coalesce(current_query() ~* 'truncate|all|u&', true) THEN PERFORM vaultbrix.ensure_changed_guards(); END IF;
  ELSIF p_tag ^@ 'ALTER ' OR p_tag = 'CREATE RULE' THEN
    -- A step of an approved text has its place, whether or not something is lost with it.
    IF vaultbrix.use_pass(p_tag, nested, p_schemas, true, NULL) IS NOT NULL THEN
      PERFORM vaultbrix.ensure_own_guards(p_actor);
    ELSIF NOT vaultbrix.by_effect(p_tag, nested) THEN PERFORM vaultbrix.deny(p_tag, p_actor, nested);
    ELSIF told = 0 THEN
      IF coalesce((p_before->>'has_replaced')::boolean, true) OR vaultbrix.written() IS DISTINCT FROM (p_before->>'written')::bigint THEN
        PERFORM vaultbrix.deny(p_tag, p_actor, nested, 'its effect is unknown');
      END IF;
    ELSIF lasting = 0 THEN NULL;
    ELSIF NOT vaultbrix.concerns_existing() THEN
      PERFORM vaultbrix.ensure_guard(w.objid) FROM pg_event_trigger_ddl_commands() d, vaultbrix.whole(d.classid, d.objid) w
        WHERE w.classid = 'pg_class'::regclass AND d.schema_name IS DISTINCT FROM 'pg_temp';
    ELSIF NOT vaultbrix.has_swapped(p_before->'rebuildable', p_actor) THEN
      why := vaultbrix.why_refused(p_before, vaultbrix.may_add(p_tag, p_actor, nested));
      IF why IS NOT NULL THEN PERFORM vaultbrix.deny(p_tag, p_actor, nested, why); END IF;
    END IF;
  ELSIF p_tag ^@ 'DROP ' THEN
    IF vaultbrix.use_pass(p_tag, nested, p_schemas, true, NULL) IS NOT NULL THEN PERFORM vaultbrix.ensure_own_guards(p_actor); END IF;
  END IF;
END $$;

-- The place of the last statement that used the pass, 0 for none; for its own login, within its open transaction too.
CREATE FUNCTION vaultbrix.used_up_to(p_pass uuid) RETURNS int
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
BEGIN
  RETURN (SELECT next_stmt - 1 FROM vaultbrix.ddl_pass WHERE pass_id = p_pass AND login = session_user);
END $$;

GRANT EXECUTE ON FUNCTION vaultbrix.lost(name), vaultbrix.before(text, name), vaultbrix.sql_drop(text, name, text, name[], text[]),
  vaultbrix.ddl_end(text, name, text, name[], jsonb), vaultbrix.used_up_to(uuid) TO PUBLIC;

-- Takes away what means nothing any more: rows of ended transactions, and what the additive policy had of its own before,
-- which a tenant's open transaction may hold, and must not hold an upgrade up with.
CREATE FUNCTION vaultbrix.tidy() RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
BEGIN
  DELETE FROM vaultbrix.made WHERE xid < pg_snapshot_xmin(pg_current_snapshot());
  DROP TABLE IF EXISTS vaultbrix.attempt;
  DROP FUNCTION IF EXISTS vaultbrix.refuse_unjudged();
EXCEPTION WHEN lock_not_available THEN NULL;
END $$;
RESET ROLE;
