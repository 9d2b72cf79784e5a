-- What the gate needs to know to judge by effect: what a transaction made, and how the catalogs were when a command began. The
-- functions for the latter are STABLE: called by a STABLE function of an event trigger, they see the snapshot of the
-- statement that fired it, in which what the statement did has not happened yet (PostgreSQL 38.7).
SET ROLE vaultbrix_gate;

-- What this transaction has made: the only objects of which it is believed that nothing of before is lost with them. Rows
-- of transactions that have ended mean nothing; tidy() takes them away.
CREATE UNLOGGED TABLE vaultbrix.made(
  xid xid8 NOT NULL, classid oid NOT NULL, objid oid NOT NULL, PRIMARY KEY (xid, classid, objid));

-- What an object is a part of and cannot be taken from: the relation of an index, constraint, trigger, rule or policy, and
-- of a row type; the type of an array. Itself where it stands alone.
CREATE FUNCTION vaultbrix.whole(p_classid oid, p_objid oid, OUT classid oid, OUT objid oid)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE relation oid; type oid; "constraint" oid;
BEGIN
  CASE p_classid
    WHEN 'pg_class'::regclass THEN
      SELECT i.indrelid INTO relation FROM pg_index i WHERE i.indexrelid = p_objid;
      SELECT c.reltype INTO type FROM pg_class c WHERE c.oid = p_objid AND c.relkind = 'c';
    WHEN 'pg_constraint'::regclass THEN
      SELECT nullif(c.conrelid, 0), nullif(c.contypid, 0) INTO relation, type FROM pg_constraint c WHERE c.oid = p_objid;
    WHEN 'pg_attrdef'::regclass THEN SELECT d.adrelid INTO relation FROM pg_attrdef d WHERE d.oid = p_objid;
    WHEN 'pg_trigger'::regclass THEN
      -- A foreign key has triggers of its own on the table that it refers to.
      SELECT t.tgrelid, CASE WHEN t.tgisinternal THEN nullif(t.tgconstraint, 0) END INTO relation, "constraint"
        FROM pg_trigger t WHERE t.oid = p_objid;
      IF "constraint" IS NOT NULL THEN
        SELECT w.classid, w.objid INTO classid, objid FROM vaultbrix.whole('pg_constraint'::regclass, "constraint") w;
        RETURN;
      END IF;
    WHEN 'pg_rewrite'::regclass THEN SELECT r.ev_class INTO relation FROM pg_rewrite r WHERE r.oid = p_objid;
    WHEN 'pg_policy'::regclass THEN SELECT p.polrelid INTO relation FROM pg_policy p WHERE p.oid = p_objid;
    WHEN 'pg_statistic_ext'::regclass THEN SELECT s.stxrelid INTO relation FROM pg_statistic_ext s WHERE s.oid = p_objid;
    WHEN 'pg_type'::regclass THEN
      SELECT c.oid INTO relation FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid WHERE t.oid = p_objid AND c.relkind <> 'c';
      SELECT coalesce(r.rngtypid, e.oid) INTO type FROM pg_type t
        LEFT JOIN pg_range r ON r.rngmultitypid = t.oid LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
       WHERE t.oid = p_objid;
      IF type IS NOT NULL THEN
        SELECT w.classid, w.objid INTO classid, objid FROM vaultbrix.whole(p_classid, type) w;
        RETURN;
      END IF;
    ELSE NULL;
  END CASE;
  classid := CASE WHEN relation IS NOT NULL THEN 'pg_class'::regclass WHEN type IS NOT NULL THEN 'pg_type'::regclass ELSE p_classid END;
  objid := coalesce(relation, type, p_objid);
END $$;

-- Whether an object is to last and was there before this transaction, which has made neither it nor what it is a part of.
CREATE FUNCTION vaultbrix.existed(p_classid oid, p_objid oid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE mine xid8 := pg_current_xact_id_if_assigned();
BEGIN
  RETURN NOT EXISTS (SELECT FROM vaultbrix.made m WHERE m.xid = mine AND m.classid = p_classid AND m.objid = p_objid)
     AND NOT EXISTS (
       SELECT FROM vaultbrix.whole(p_classid, p_objid) w
         LEFT JOIN vaultbrix.made m ON m.xid = mine AND m.classid = w.classid AND m.objid = w.objid
         LEFT JOIN pg_class c ON w.classid = 'pg_class'::regclass AND c.oid = w.objid
        WHERE m.xid IS NOT NULL OR c.relpersistence = 't');
END $$;

-- Whether what the statement does to its tables and types can be compared with what was before. An older snapshot than the
-- statement's own would miss what others have added meanwhile.
CREATE FUNCTION vaultbrix.may_compare(p_tag text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN p_tag IN ('ALTER TABLE', 'ALTER TYPE')
    AND current_setting('transaction_isolation') IN ('read committed', 'read uncommitted');
END $$;

-- Whether the statement is one that the additive policy may let through.
CREATE FUNCTION vaultbrix.may_add(p_tag text, p_actor name, p_nested boolean) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN NOT p_nested AND vaultbrix.may_compare(p_tag) AND current_query() IS NOT NULL
    AND EXISTS (SELECT FROM vaultbrix.additive_role WHERE role_name = p_actor);
END $$;

-- Transactions of this session that are open: the one at the top and those within it.
CREATE FUNCTION vaultbrix.own_xids() RETURNS xid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT coalesce(array_agg(transactionid), '{}') FROM pg_locks
           WHERE pid = pg_backend_pid() AND locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted);
END $$;

-- Who has replaced or deleted a row that a snapshot still shows: 'nobody' for good, this transaction ('own') or 'another'.
CREATE FUNCTION vaultbrix.toucher(p_xmax xid, p_own xid[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE now_ bigint := pg_current_xact_id()::text::bigint; behind bigint; whole bigint;
BEGIN
  IF p_xmax = '0'::xid THEN RETURN 'nobody'; END IF;
  IF p_xmax = ANY (p_own) THEN RETURN 'own'; END IF;
  -- Of an xid's 64 bits a row holds 32.
  behind := mod(mod(now_ - p_xmax::text::bigint, 4294967296) + 4294967296, 4294967296);
  whole := now_ - behind + CASE WHEN behind > 2147483648 THEN 4294967296 ELSE 0 END;
  IF whole >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint THEN RETURN 'another'; END IF;
  RETURN CASE WHEN pg_xact_status(whole::text::xid8) IN ('aborted', 'in progress') THEN 'nobody' ELSE 'another' END;
END $$;

-- What of the catalogs' rows about these tables and types this transaction wrote ({"kind key": row}) and, in the snapshot
-- before the statement, what somebody has replaced or deleted since; of the former those that nobody has are null there.
CREATE FUNCTION vaultbrix.image(p_tables oid[], p_types oid[], p_own xid[], p_before boolean) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE nobody xid := '0';
BEGIN
  RETURN (WITH sequences AS (
    SELECT objid AS oid FROM pg_depend
     WHERE refclassid = 'pg_class'::regclass AND refobjid = ANY (p_tables) AND classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
  ), classes AS (
    SELECT unnest(p_tables) AS oid UNION SELECT indexrelid FROM pg_index WHERE indrelid = ANY (p_tables)
     UNION SELECT reltoastrelid FROM pg_class WHERE oid = ANY (p_tables) UNION SELECT oid FROM sequences
  ), catalog_rows(key, toucher, value) AS (
    SELECT 'class ' || r.oid, r.xmax, to_jsonb(r) FROM pg_class r JOIN classes USING (oid)
     WHERE r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody
    UNION ALL SELECT 'column ' || attrelid || ' ' || attnum, r.xmax, to_jsonb(r) FROM pg_attribute r
     WHERE attrelid = ANY (p_tables) AND attnum > 0 AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'expression ' || r.adrelid || ' ' || r.adnum, r.xmax, to_jsonb(r) FROM pg_attrdef r
      JOIN pg_attribute a ON a.attrelid = r.adrelid AND a.attnum = r.adnum
     WHERE r.adrelid = ANY (p_tables) AND a.attgenerated <> '' AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'constraint ' || oid, r.xmax, to_jsonb(r) FROM pg_constraint r
     WHERE conrelid = ANY (p_tables) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'index ' || indexrelid, r.xmax, to_jsonb(r) FROM pg_index r
     WHERE indrelid = ANY (p_tables) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'trigger ' || oid, r.xmax, to_jsonb(r) FROM pg_trigger r
     WHERE tgrelid = ANY (p_tables) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'rule ' || oid, r.xmax, to_jsonb(r) FROM pg_rewrite r
     WHERE ev_class = ANY (p_tables) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'policy ' || oid, r.xmax, to_jsonb(r) FROM pg_policy r
     WHERE polrelid = ANY (p_tables) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'statistics ' || oid, r.xmax, to_jsonb(r) FROM pg_statistic_ext r
     WHERE stxrelid = ANY (p_tables) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'partitioning ' || partrelid, r.xmax, to_jsonb(r) FROM pg_partitioned_table r
     WHERE partrelid = ANY (p_tables) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'inheritance ' || inhrelid || ' ' || inhparent, r.xmax, to_jsonb(r) FROM pg_inherits r
     WHERE (inhrelid = ANY (p_tables) OR inhparent = ANY (p_tables)) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'sequence ' || seqrelid, r.xmax, to_jsonb(r) FROM pg_sequence r
     WHERE seqrelid IN (SELECT oid FROM sequences) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'type ' || oid, r.xmax, to_jsonb(r) FROM pg_type r
     WHERE oid = ANY (p_types) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
    UNION ALL SELECT 'label ' || oid, r.xmax, to_jsonb(r) FROM pg_enum r
     WHERE enumtypid = ANY (p_types) AND (r.xmin = ANY (p_own) OR p_before AND r.xmax <> nobody)
  ) SELECT coalesce(jsonb_object_agg(key, CASE
             -- What another transaction replaced at the same moment is not what the statement found.
             WHEN NOT p_before THEN value ELSE CASE vaultbrix.toucher(toucher, p_own)
               WHEN 'own' THEN value WHEN 'another' THEN value || '{"replaced by another transaction": true}' END END), '{}')
    FROM catalog_rows);
END $$;

-- The rows of the catalogs about what is to last: who wrote each, and who has replaced or deleted it since.
CREATE FUNCTION vaultbrix.lasting_rows() RETURNS TABLE(writer xid, toucher xid) LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
  SELECT xmin, xmax FROM pg_catalog.pg_class WHERE relpersistence <> 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_attribute r JOIN pg_catalog.pg_class c ON c.oid = attrelid WHERE relpersistence <> 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_attrdef r JOIN pg_catalog.pg_class c ON c.oid = adrelid WHERE relpersistence <> 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_index r JOIN pg_catalog.pg_class c ON c.oid = indrelid WHERE relpersistence <> 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_trigger r JOIN pg_catalog.pg_class c ON c.oid = tgrelid WHERE relpersistence <> 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = ev_class WHERE relpersistence <> 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_policy r JOIN pg_catalog.pg_class c ON c.oid = polrelid WHERE relpersistence <> 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_inherits r JOIN pg_catalog.pg_class c ON c.oid = inhrelid WHERE relpersistence <> 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_sequence r JOIN pg_catalog.pg_class c ON c.oid = seqrelid WHERE relpersistence <> 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_constraint r LEFT JOIN pg_catalog.pg_class c ON c.oid = conrelid
   WHERE relpersistence IS DISTINCT FROM 't'
  UNION ALL SELECT r.xmin, r.xmax FROM pg_catalog.pg_type r
   WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE relpersistence = 't' AND reltype <> 0 AND reltype IN (r.oid, r.typelem))
  UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_statistic_ext UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_proc
  UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_enum UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_partitioned_table
  UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_namespace UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_default_acl
  UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_operator UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_opclass
  UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_opfamily UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_collation
  UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_conversion UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_cast
  UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_ts_config UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_ts_config_map
  UNION ALL SELECT xmin, xmax FROM pg_catalog.pg_ts_dict
$$;

-- How many of them this transaction has written so far: a command that PostgreSQL told nothing of must not have added any.
CREATE FUNCTION vaultbrix.written() RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE own xid[] := vaultbrix.own_xids();
BEGIN
  RETURN (SELECT count(*) FROM vaultbrix.lasting_rows() WHERE writer = ANY (own));
END $$;

-- Whether one was replaced or deleted since. For the snapshot before the statement.
CREATE FUNCTION vaultbrix.has_replaced() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE own xid[] := vaultbrix.own_xids(); nobody xid := '0';
BEGIN
  RETURN EXISTS (SELECT FROM vaultbrix.lasting_rows() WHERE toucher <> nobody AND vaultbrix.toucher(toucher, own) <> 'nobody');
END $$;

-- What ddl_end has to know of the time before the command, from its caller's snapshot:
-- CREATE that may replace: the objects that were there. ALTER: the names of what is altered, which of it the tenant may
-- rename, and its tables, its types and what of the catalogs about them has changed; of one that PostgreSQL told nothing of,
-- whether it replaced a row of the catalogs all the same, and how many were written before it.
CREATE FUNCTION vaultbrix.before(p_tag text, p_actor name) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE tables oid[]; types oid[]; own xid[]; names text; known jsonb;
BEGIN
  IF p_tag NOT IN ('CREATE FUNCTION', 'CREATE PROCEDURE', 'CREATE AGGREGATE', 'CREATE VIEW', 'CREATE TRIGGER') AND NOT p_tag ^@ 'ALTER '
    OR vaultbrix.is_exempt(p_actor) THEN RETURN NULL; END IF;
  IF p_tag ^@ 'CREATE ' THEN
    -- Not EXISTS, for which PostgreSQL would read all of a catalog.
    RETURN (SELECT coalesce(jsonb_agg(objid::text), '[]') FROM pg_event_trigger_ddl_commands()
             WHERE CASE classid
               WHEN 'pg_proc'::regclass THEN (SELECT true FROM pg_proc WHERE oid = objid)
               WHEN 'pg_class'::regclass THEN (SELECT true FROM pg_class WHERE oid = objid)
               WHEN 'pg_trigger'::regclass THEN (SELECT true FROM pg_trigger WHERE oid = objid) END);
  END IF;
  IF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands()) THEN
    RETURN jsonb_build_object('has_replaced', vaultbrix.has_replaced(), 'written', vaultbrix.written());
  END IF;
  SELECT string_agg(object_type || ' ' || coalesce(n.nspname || '.' || c.relname, object_identity), ', ') INTO names FROM (
    SELECT * FROM pg_event_trigger_ddl_commands() WHERE schema_name IS DISTINCT FROM 'pg_temp' LIMIT 5) d
    LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND d.objsubid = 0
    LEFT JOIN pg_namespace n ON n.oid = c.relnamespace;
  own := vaultbrix.own_xids();
  known := jsonb_build_object('altered', names, 'rebuildable', vaultbrix.altered_rebuildable(p_actor, own));
  IF NOT vaultbrix.may_compare(p_tag) THEN RETURN known; END IF;
  WITH RECURSIVE meant AS (
    SELECT c.oid FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON c.oid = d.objid JOIN pg_roles r ON r.oid = c.relowner
     WHERE d.classid = 'pg_class'::regclass AND d.command_tag = 'ALTER TABLE' AND c.relkind IN ('r', 'p') AND r.rolname = p_actor
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN meant m ON i.inhparent = m.oid)
  SELECT coalesce(array_agg(oid), '{}') INTO tables FROM meant;
  SELECT coalesce(array_agg(t.oid), '{}') INTO types FROM pg_event_trigger_ddl_commands() d JOIN pg_type t ON t.oid = d.objid
    JOIN pg_roles r ON r.oid = t.typowner WHERE d.classid = 'pg_type'::regclass AND t.typtype = 'e' AND r.rolname = p_actor;
  RETURN known || jsonb_build_object('tables', to_jsonb(tables::text[]), 'types', to_jsonb(types::text[]), 'own', to_jsonb(own::text[]),
                                     'image', vaultbrix.image(tables, types, own, true));
END $$;

-- Of what went, what was there before the transaction and was not temporary, as DDLApprovals name it; NULL: nothing. For
-- the snapshot before the statement. Guards and the places of long values go with their tables, are none of the
-- approver's business, and the latter have another name each time; a guard that goes alone is a loss. A
-- relation that a tool builds anew goes with all its parts and sequences.
CREATE FUNCTION vaultbrix.lost(p_actor name) RETURNS text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE rebuilt oid[];
BEGIN
  IF vaultbrix.is_exempt(p_actor) THEN RETURN NULL; END IF;
  rebuilt := vaultbrix.dropped_rebuildable(p_actor);
  RETURN (WITH gone AS MATERIALIZED (SELECT * FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary)
    SELECT array_agg(object_type || ' ' || object_identity) FROM gone g
     WHERE schema_name IS DISTINCT FROM 'pg_toast' AND CASE
       -- A trigger's own name is the last of its address.
       WHEN object_type = 'trigger' AND address_names[3] IS NOT DISTINCT FROM 'vaultbrix_truncate_guard' THEN NOT EXISTS (
         SELECT FROM pg_trigger t JOIN gone w ON w.classid = 'pg_class'::regclass AND w.objid = t.tgrelid AND w.objsubid = 0
          WHERE t.oid = g.objid)
       WHEN rebuilt <> '{}' AND (
           EXISTS (SELECT FROM vaultbrix.whole(classid, objid) w WHERE w.classid = 'pg_class'::regclass AND w.objid = ANY (rebuilt))
           OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = g.classid AND d.objid = g.objid AND d.deptype IN ('a', 'i')
                       AND object_type = 'sequence' AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (rebuilt))) THEN false
       ELSE vaultbrix.existed(classid, objid) END);
END $$;
RESET ROLE;
