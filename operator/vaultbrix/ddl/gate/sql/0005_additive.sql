-- ALTERs that only add pass without an approval where the tenant's policy says so. Decided by effect: an image of the
-- catalogs before the statement is compared with one after it; whatever is not known to be harmless is refused, columns
-- of the catalogs that later versions bring included. The statement's text is a hint where to look, never a reason.
SET ROLE vaultbrix_gate;

CREATE TABLE vaultbrix.additive_role(role_name name PRIMARY KEY REFERENCES vaultbrix.tenant ON DELETE CASCADE);

-- The statement of a backend that is running under the policy. It leaves no row: judged at its end, or never committed.
CREATE UNLOGGED TABLE vaultbrix.attempt(
  pid int NOT NULL, tables oid[] NOT NULL, types oid[] NOT NULL, image jsonb NOT NULL);
CREATE INDEX ON vaultbrix.attempt(pid);

CREATE FUNCTION vaultbrix.refuse_unjudged() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
BEGIN
  -- A statement that commits halfway, as DETACH PARTITION CONCURRENTLY does, has got here before its end.
  IF EXISTS (SELECT FROM vaultbrix.attempt WHERE pid = NEW.pid) THEN
    PERFORM vaultbrix.deny('ALTER', session_user, false, 'it commits before its effect is known');
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER judged AFTER INSERT ON vaultbrix.attempt DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION vaultbrix.refuse_unjudged();
ALTER TABLE vaultbrix.attempt ENABLE ALWAYS TRIGGER judged;

CREATE FUNCTION vaultbrix.deny(p_tag text, p_actor name, p_nested boolean, p_why text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION '% requires an approved DDLApproval (role %)', p_tag, p_actor USING ERRCODE = 'VBX01',
    DETAIL = 'sha256(normalised text) = ' || coalesce(encode(sha256(convert_to(vaultbrix.norm(current_query()), 'UTF8')), 'hex'), 'none')
             || CASE WHEN p_nested THEN '; issued inside a function, trigger or DO block' ELSE '' END
             || coalesce('; not merely additive: ' || p_why, ''),
    HINT = 'Create a DDLApproval with exactly this SQL, have an admin approve it, then run it again unchanged before the pass expires.';
END $$;
CREATE OR REPLACE FUNCTION vaultbrix.deny(p_tag text, p_actor name, p_nested boolean) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT vaultbrix.deny($1, $2, $3, NULL) $$;

-- All that the catalogs say of these tables and types: {"kind key": row}.
-- In PL/pgSQL, which keeps the plan.
CREATE FUNCTION vaultbrix.image(p_tables oid[], p_types oid[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (WITH sequences AS (
    SELECT objid AS oid FROM pg_depend
     WHERE refclassid = 'pg_class'::regclass AND refobjid = ANY (p_tables) AND classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
  ), classes AS (
    SELECT unnest(p_tables) AS oid UNION SELECT indexrelid FROM pg_index WHERE indrelid = ANY (p_tables)
     UNION SELECT reltoastrelid FROM pg_class WHERE oid = ANY (p_tables) UNION SELECT oid FROM sequences
  ), found(key, value) AS (
    SELECT 'class ' || c.oid, to_jsonb(c) FROM pg_class c JOIN classes USING (oid)
    UNION ALL SELECT 'column ' || attrelid || ' ' || attnum, to_jsonb(a) FROM pg_attribute a WHERE attrelid = ANY (p_tables) AND attnum > 0
    UNION ALL SELECT 'expression ' || d.adrelid || ' ' || d.adnum, to_jsonb(d) FROM pg_attrdef d
      JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = ANY (p_tables) AND a.attgenerated <> ''
    UNION ALL SELECT 'constraint ' || oid, to_jsonb(c) FROM pg_constraint c WHERE conrelid = ANY (p_tables)
    UNION ALL SELECT 'index ' || indexrelid, to_jsonb(i) FROM pg_index i WHERE indrelid = ANY (p_tables)
    UNION ALL SELECT 'trigger ' || oid, to_jsonb(t) FROM pg_trigger t WHERE tgrelid = ANY (p_tables)
    UNION ALL SELECT 'rule ' || oid, to_jsonb(r) FROM pg_rewrite r WHERE ev_class = ANY (p_tables)
    UNION ALL SELECT 'policy ' || oid, to_jsonb(p) FROM pg_policy p WHERE polrelid = ANY (p_tables)
    UNION ALL SELECT 'statistics ' || oid, to_jsonb(s) FROM pg_statistic_ext s WHERE stxrelid = ANY (p_tables)
    UNION ALL SELECT 'partitioning ' || partrelid, to_jsonb(p) FROM pg_partitioned_table p WHERE partrelid = ANY (p_tables)
    UNION ALL SELECT 'inheritance ' || inhrelid || ' ' || inhparent, to_jsonb(i) FROM pg_inherits i
     WHERE inhrelid = ANY (p_tables) OR inhparent = ANY (p_tables)
    UNION ALL SELECT 'sequence ' || seqrelid, to_jsonb(s) FROM pg_sequence s WHERE seqrelid IN (SELECT oid FROM sequences)
    UNION ALL SELECT 'type ' || oid, to_jsonb(t) FROM pg_type t WHERE oid = ANY (p_types)
    UNION ALL SELECT 'label ' || oid, to_jsonb(e) FROM pg_enum e WHERE enumtypid = ANY (p_types)
  ) SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM found);
END $$;

-- Whether a row may be new.
CREATE FUNCTION vaultbrix.may_appear(p_kind text, p_row jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE p_kind
    WHEN 'column' THEN p_row->>'attidentity' = '' AND p_row->>'attgenerated' <> 's' AND p_row->>'attisdropped' = 'false'
    WHEN 'expression' THEN true
    -- An index, or the place for long values.
    WHEN 'class' THEN p_row->>'relkind' IN ('i', 'I', 't')
    WHEN 'index' THEN NOT (p_row->>'indisclustered')::boolean AND NOT (p_row->>'indisreplident')::boolean
    -- Rows that would go or change along with those they refer to are no mere addition.
    WHEN 'constraint' THEN p_row->>'contype' IN ('c', 'u', 'p', 'x', 'n') OR (p_row->>'contype' = 'f' AND p_row->>'confdeltype' IN ('a', 'r')
                                                                           AND p_row->>'confupdtype' IN ('a', 'r', 'c'))
    WHEN 'trigger' THEN (p_row->>'tgisinternal')::boolean
    WHEN 'label' THEN true
    ELSE false END
$$;

-- Whether a row may have become the other.
CREATE FUNCTION vaultbrix.may_become(p_kind text, p_old jsonb, p_new jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE p_kind
    WHEN 'class' THEN p_old - m.names = p_new - m.names AND p_old->>'reltoastrelid' IN ('0', p_new->>'reltoastrelid')
    WHEN 'column' THEN p_old - m.names = p_new - m.names AND NOT ((p_old->>'attnotnull')::boolean AND NOT (p_new->>'attnotnull')::boolean)
    WHEN 'constraint' THEN p_old - m.names = p_new - m.names AND (p_new->>'convalidated')::boolean
    WHEN 'index' THEN p_old - m.names = p_new - m.names AND (p_new->>'indisprimary')::boolean
    -- Their order is compared beside.
    WHEN 'label' THEN p_old - m.names = p_new - m.names
    ELSE false END
  FROM (SELECT CASE p_kind
    WHEN 'class' THEN ARRAY['relnatts', 'relchecks', 'relhasindex', 'relhastriggers', 'reltoastrelid', 'relpages', 'reltuples',
                            'relallvisible', 'relallfrozen', 'relfrozenxid', 'relminmxid']
    WHEN 'column' THEN ARRAY['attnotnull', 'atthasdef']
    WHEN 'constraint' THEN ARRAY['convalidated']
    WHEN 'index' THEN ARRAY['indisprimary']
    WHEN 'label' THEN ARRAY['enumsortorder'] END AS names) m
$$;

-- The first difference that is no addition, in words; NULL where there is none.
CREATE FUNCTION vaultbrix.harm(p_before jsonb, p_after jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (WITH old AS (SELECT * FROM jsonb_each(p_before)), new AS (SELECT * FROM jsonb_each(p_after)),
  found AS (
    SELECT split_part(key, ' ', 1) AS kind, old.value AS was, new.value AS becomes
      FROM old FULL JOIN new USING (key) WHERE old.value IS DISTINCT FROM new.value
  ), labels AS (
    SELECT old.value->>'enumtypid' AS type,
           row_number() OVER (PARTITION BY old.value->>'enumtypid' ORDER BY (old.value->>'enumsortorder')::float4) AS stood,
           row_number() OVER (PARTITION BY old.value->>'enumtypid' ORDER BY (new.value->>'enumsortorder')::float4) AS stands
      FROM old JOIN new USING (key) WHERE key ^@ 'label '
  )
  SELECT kind || ' ' || coalesce(row_data->>'relname', row_data->>'attname', row_data->>'conname', row_data->>'tgname',
                                 row_data->>'polname', row_data->>'typname', row_data->>'enumlabel', row_data->>'indexrelid', '')
         || CASE WHEN was IS NULL THEN ' appears' WHEN becomes IS NULL THEN ' goes'
                 ELSE ' changes: ' || coalesce((SELECT string_agg(o.key, ', ') FROM jsonb_each(was) o
                                               WHERE o.value IS DISTINCT FROM becomes->o.key), '') END
    FROM (SELECT *, coalesce(was, becomes) AS row_data FROM found) f
   WHERE becomes IS NULL OR NOT coalesce(CASE WHEN was IS NULL THEN vaultbrix.may_appear(kind, becomes)
                                              ELSE vaultbrix.may_become(kind, was, becomes) END, false)
  UNION ALL SELECT 'the order of labels changes' FROM labels WHERE stood <> stands
  LIMIT 1);
END $$;

-- Remembers what there is of the actor's that the statement may mean: tables and types whose name is a word of it.
CREATE FUNCTION vaultbrix.watch(p_tag text, p_actor name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE words name[]; tables oid[] := '{}'; types oid[] := '{}'; target record;
BEGIN
  SELECT array_agg(DISTINCT w::name) INTO words
    FROM regexp_matches(current_query(), '[[:alnum:]_$]+', 'g') m, LATERAL (VALUES (m[1]), (lower(m[1]))) v(w);
  IF p_tag = 'ALTER TABLE' THEN
    WITH RECURSIVE meant AS (
      SELECT c.oid FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
       WHERE c.relname = ANY (words) AND r.rolname = p_actor AND c.relkind IN ('r', 'p')
      UNION SELECT i.inhrelid FROM pg_inherits i JOIN meant m ON i.inhparent = m.oid)
    SELECT coalesce(array_agg(oid ORDER BY oid), '{}') INTO tables FROM meant;
    -- Nobody else's ALTER may end between the image and the lock that the statement itself takes.
    FOR target IN SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.oid = ANY (tables) ORDER BY c.oid LOOP
      EXECUTE format('LOCK TABLE ONLY %I.%I IN ACCESS SHARE MODE', target.nspname, target.relname);
    END LOOP;
  ELSE
    SELECT coalesce(array_agg(t.oid), '{}') INTO types FROM pg_type t JOIN pg_roles r ON r.oid = t.typowner
     WHERE t.typname = ANY (words) AND r.rolname = p_actor AND t.typtype = 'e';
  END IF;
  INSERT INTO vaultbrix.attempt(pid, tables, types, image)
    VALUES (pg_backend_pid(), tables, types, vaultbrix.image(tables, types));
END $$;

-- At the end of such a statement: refuses it unless it only added, or is about what is temporary.
CREATE FUNCTION vaultbrix.judge(p_tag text, p_actor name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE a vaultbrix.attempt; why text; foreign_ text; n int; temporary_ int;
BEGIN
  DELETE FROM vaultbrix.attempt WHERE pid = pg_backend_pid() RETURNING * INTO a;
  SELECT count(*), count(*) FILTER (WHERE schema_name IS NOT DISTINCT FROM 'pg_temp'),
         min(command_tag || ' ' || object_identity) FILTER (WHERE NOT (
           (command_tag = 'ALTER TABLE' AND classid = 'pg_class'::regclass AND objid = ANY (a.tables))
           OR (command_tag = 'ALTER TYPE' AND classid = 'pg_type'::regclass AND objid = ANY (a.types))
           OR (command_tag = 'CREATE INDEX' AND EXISTS (SELECT FROM pg_index WHERE indexrelid = objid AND indrelid = ANY (a.tables)))))
    INTO n, temporary_, foreign_ FROM pg_event_trigger_ddl_commands();
  IF n > 0 AND n = temporary_ THEN RETURN; END IF;
  why := CASE WHEN n = 0 THEN 'its effect is unknown' WHEN foreign_ IS NOT NULL THEN foreign_
              ELSE vaultbrix.harm(a.image, vaultbrix.image(a.tables, a.types)) END;
  IF why IS NOT NULL THEN PERFORM vaultbrix.deny(p_tag, p_actor, false, why); END IF;
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.ddl_start(p_tag text, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0;
BEGIN
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

-- What is permanent and depends on something temporary would go with the session, and no event trigger would see it.
CREATE FUNCTION vaultbrix.refuse_dependence_on_temporary() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE temporary_ oid := pg_my_temp_schema(); found text;
BEGIN
  IF temporary_ = 0 THEN RETURN; END IF;
  -- As PostgreSQL itself finds what goes with the session: what depends on the schema, and so on.
  WITH RECURSIVE going(classid, objid, objsubid) AS (
    SELECT classid, objid, objsubid FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = temporary_
    UNION SELECT d.classid, d.objid, d.objsubid FROM going g
            JOIN pg_depend d ON d.refclassid = g.classid AND d.refobjid = g.objid)
  SELECT pg_describe_object(g.classid, g.objid, g.objsubid) INTO found
    FROM going g, LATERAL pg_identify_object_as_address(g.classid, g.objid, g.objsubid) a
   WHERE coalesce(a.object_names[1], '') !~ '^(pg_temp|pg_toast_temp)'
   LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION '% would go with this session, as it depends on something temporary', found USING ERRCODE = 'VBX05',
      HINT = 'Create in your own schema what it depends on.';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.ddl_end(p_tag text, p_actor name, p_ctx text, p_schemas name[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE nested boolean := strpos(p_ctx, chr(10)) > 0; r record; n int := 0; perm int := 0;
BEGIN
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
      PERFORM vaultbrix.ensure_guards(p_actor);
    END IF;
  ELSIF p_tag ^@ 'DROP ' THEN
    -- Without a pass, only what is temporary went.
    IF EXISTS (SELECT FROM vaultbrix.ddl_pass_use WHERE pid = pg_backend_pid() AND message_ts = statement_timestamp()) THEN
      PERFORM vaultbrix.ensure_guards(p_actor);
    END IF;
  END IF;
END $$;
RESET ROLE;
