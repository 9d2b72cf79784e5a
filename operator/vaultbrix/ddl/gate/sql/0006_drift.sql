-- Event triggers that a superuser has dropped or changed are put back; claims outlive an uninstallation.
SET ROLE vaultbrix_gate;

CREATE OR REPLACE FUNCTION vaultbrix.repair() RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE t name; wanted record;
BEGIN
  FOR wanted IN
    SELECT w.* FROM (VALUES ('vaultbrix_start', 'ddl_command_start', 'et_start'), ('vaultbrix_drop', 'sql_drop', 'et_drop'),
                            ('vaultbrix_end', 'ddl_command_end', 'et_end')) w(name, event, function)
      LEFT JOIN pg_event_trigger e ON e.evtname = w.name
     WHERE e.evtname IS NULL OR e.evtevent <> w.event OR e.evttags IS NOT NULL OR e.evtenabled <> 'A'
        OR e.evtfoid <> format('vaultbrix.%I()', w.function)::regprocedure
        OR e.evtowner <> 'vaultbrix_gate'::regrole
  LOOP
    EXECUTE format('DROP EVENT TRIGGER IF EXISTS %I', wanted.name);
    EXECUTE format('CREATE EVENT TRIGGER %I ON %s EXECUTE FUNCTION vaultbrix.%I()', wanted.name, wanted.event, wanted.function);
    EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', wanted.name);
    EXECUTE format('ALTER EVENT TRIGGER %I OWNER TO vaultbrix_gate', wanted.name);
  END LOOP;
  -- A role whose tables are locked is left to the next time.
  FOR t IN SELECT DISTINCT r.rolname FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
            WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT r.rolsuper LOOP
    BEGIN
      PERFORM vaultbrix.ensure_guards(t);
    EXCEPTION WHEN lock_not_available THEN NULL;
    END;
  END LOOP;
END $$;

-- Claims of an installation that was taken away: only an administrator can comment on a role.
INSERT INTO vaultbrix.tenant(role_name, namespace, name)
  SELECT r.rolname, c[1], c[2] FROM pg_roles r
    JOIN pg_auth_members m ON m.member = r.oid AND m.roleid = 'vaultbrix_tenants'::regrole,
    regexp_match(shobj_description(r.oid, 'pg_authid'), '^vaultbrix Tenant ([^/]+)/([^/]+)$') c
   WHERE c IS NOT NULL
ON CONFLICT DO NOTHING;
RESET ROLE;
