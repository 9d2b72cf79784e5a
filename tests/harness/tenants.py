"""What tests of tenants look at: the keys of its Secret, the rows of the catalogue; and a restart of the operator."""

from tests.harness.world import World

KEYS = {
    "host", "port", "dbname", "username", "password", "schema", "uri", "jdbc-uri", "pgpass", "type", "provider",
    "DATABASE_URL", "ca.crt", "PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSSLMODE", "PGSSLROOTCERT",
    "PGCHANNELBINDING", "PGREQUIREAUTH",
}  # fmt: skip


def restart_operator(world: World) -> None:
    world.operator.kill()
    world.operator.start()


CATALOG = (
    "SELECT 'role', rolname::text, xmin::text FROM pg_authid"
    " UNION ALL SELECT 'member', roleid::regrole::text || member::regrole::text, xmin::text FROM pg_auth_members"
    " UNION ALL SELECT 'setting', setrole::regrole::text, xmin::text FROM pg_db_role_setting"
    " UNION ALL SELECT 'schema', nspname::text, xmin::text FROM pg_namespace"
    " UNION ALL SELECT 'default', defaclrole::regrole::text, xmin::text FROM pg_default_acl"
    " UNION ALL SELECT 'tenant', role_name::text, xmin::text FROM vaultbrix.tenant"
    " UNION ALL SELECT 'uid', role_name::text || uid, xmin::text FROM vaultbrix.tenant_uid ORDER BY 1, 2"
)
