-- The object that a slug belongs to, by its uid: whoever makes a namespace or a Tenant anew has the name, not the uid.
SET ROLE vaultbrix_gate;

-- Beside vaultbrix.tenant, with a row for each of its rows. Until bound_at is set, which object it is is not known: one of
-- the same namespace and name that is older than noted_at. Its uid is made up then, so that it can be named all the same.
CREATE TABLE vaultbrix.tenant_uid(
  role_name name PRIMARY KEY REFERENCES vaultbrix.tenant ON DELETE CASCADE,
  uid text NOT NULL DEFAULT gen_random_uuid()::text, noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  bound_at timestamptz,
  retained_at timestamptz);       -- since when the object is gone and its data is kept; NULL: not known to be
INSERT INTO vaultbrix.tenant_uid(role_name) SELECT role_name FROM vaultbrix.tenant;

-- Also for rows of an operator of an older release, say that of another cluster.
CREATE FUNCTION vaultbrix.note_uid() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO vaultbrix.tenant_uid(role_name) VALUES (NEW.role_name);
  RETURN NULL;
END $$;
CREATE TRIGGER note_uid AFTER INSERT ON vaultbrix.tenant FOR EACH ROW EXECUTE FUNCTION vaultbrix.note_uid();

-- Claims of an installation that was taken away, as of migration 0006, with their uid.
DO $$
DECLARE claim record;
BEGIN
  FOR claim IN
    SELECT r.rolname AS role_name, c[1] AS namespace, c[2] AS name, c[3] AS uid FROM pg_roles r
      JOIN pg_auth_members m ON m.member = r.oid AND m.roleid = 'vaultbrix_tenants'::regrole,
      regexp_match(shobj_description(r.oid, 'pg_authid'), '^vaultbrix Tenant ([^/]+)/([^/]+)/([^/]+)$') c
     WHERE c IS NOT NULL
  LOOP
    INSERT INTO vaultbrix.tenant(role_name, namespace, name)
      VALUES (claim.role_name, claim.namespace, claim.name) ON CONFLICT DO NOTHING;
    UPDATE vaultbrix.tenant_uid SET uid = claim.uid, bound_at = clock_timestamp()
     WHERE role_name = claim.role_name AND bound_at IS NULL;
  END LOOP;
END $$;
RESET ROLE;
