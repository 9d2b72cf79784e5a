-- Relations that a tool builds anew each time it runs: where an admin has allowed it on the Tenant, they may be swapped,
-- emptied and dropped without an approval, and nothing that is not among them goes with them.
SET ROLE vaultbrix_gate;

-- Patterns of LIKE, for relations of the tenant's own.
CREATE TABLE vaultbrix.rebuildable(
  role_name name NOT NULL REFERENCES vaultbrix.tenant ON DELETE CASCADE,
  schema_pattern text NOT NULL, relation_pattern text NOT NULL,
  PRIMARY KEY (role_name, schema_pattern, relation_pattern));

-- Whether a relation of that name is one. Under an older snapshot than the statement's own a name may be another's by now.
CREATE FUNCTION vaultbrix.may_rebuild(p_actor name, p_schema text, p_relation text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') AND EXISTS (
    SELECT FROM vaultbrix.rebuildable r
     WHERE r.role_name = p_actor AND p_schema LIKE r.schema_pattern AND p_relation LIKE r.relation_pattern);
END $$;

-- Of these relations those that are one and belong to the actor, by the snapshot of the caller. A partition or heir of
-- another relation holds rows of that one.
CREATE FUNCTION vaultbrix.rebuildable_of(p_relations oid[], p_actor name) RETURNS TABLE(oid oid, schema name, relation name, toucher xid)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT c.oid, n.nspname, c.relname, c.xmax
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
   WHERE c.oid = ANY (p_relations) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND o.rolname = p_actor
     AND vaultbrix.may_rebuild(p_actor, n.nspname, c.relname)
     AND NOT EXISTS (
       WITH RECURSIVE above AS (
         SELECT inhparent FROM pg_inherits WHERE inhrelid = c.oid
         UNION SELECT i.inhparent FROM pg_inherits i JOIN above a ON i.inhrelid = a.inhparent)
       SELECT FROM above a JOIN pg_class p ON p.oid = a.inhparent JOIN pg_namespace s ON s.oid = p.relnamespace
        WHERE NOT vaultbrix.may_rebuild(p_actor, s.nspname, p.relname));
END $$;

-- Of the relations that a command has dropped those that it may, by the snapshot before it. What had another name by then
-- than it has there, or what another transaction has altered meanwhile, such as made a partition, is not believed.
CREATE FUNCTION vaultbrix.dropped_rebuildable(p_actor name) RETURNS oid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM vaultbrix.rebuildable WHERE role_name = p_actor) THEN RETURN '{}'; END IF;
  RETURN (WITH gone AS MATERIALIZED (
      SELECT objid, schema_name, object_name FROM pg_event_trigger_dropped_objects()
       WHERE classid = 'pg_class'::regclass AND objsubid = 0)
    SELECT coalesce(array_agg(r.oid), '{}') FROM vaultbrix.rebuildable_of(ARRAY(SELECT objid FROM gone), p_actor) r
      JOIN gone g ON g.objid = r.oid AND g.schema_name = r.schema AND g.object_name = r.relation
     WHERE vaultbrix.toucher(r.toucher, vaultbrix.own_xids()) = 'own');
END $$;

-- The names before an ALTER of what it has altered and may rename; what another transaction has altered meanwhile, it may not.
CREATE FUNCTION vaultbrix.altered_rebuildable(p_actor name, p_own xid[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM vaultbrix.rebuildable WHERE role_name = p_actor) THEN RETURN '{}'; END IF;
  RETURN (SELECT coalesce(jsonb_object_agg(r.oid, r.relation), '{}') FROM vaultbrix.rebuildable_of(ARRAY(
      SELECT objid FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass AND objsubid = 0), p_actor) r
    WHERE vaultbrix.toucher(r.toucher, p_own) = 'own');
END $$;

-- Whether an ALTER did no more than give such a relation another name of one. ALTER ... RENAME does nothing else.
CREATE FUNCTION vaultbrix.has_swapped(p_named jsonb, p_actor name) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN coalesce((SELECT bool_and(coalesce(
      d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND p_named ? d.objid::text AND p_named->>d.objid::text <> r.relation, false))
    FROM pg_event_trigger_ddl_commands() d
    LEFT JOIN vaultbrix.rebuildable_of(ARRAY(SELECT jsonb_object_keys(p_named))::oid[], p_actor) r ON r.oid = d.objid), false);
END $$;
RESET ROLE;
