"""What is amiss with the gate in a database: switched off, missing, or gone around by rights that somebody gave."""

from typing import LiteralString

import psycopg

EVENT_TRIGGERS = {
    "vaultbrix_start": ("ddl_command_start", "et_start"),
    "vaultbrix_drop": ("sql_drop", "et_drop"),
    "vaultbrix_end": ("ddl_command_end", "et_end"),
}
# Of each kind, so that a condition stays readable.
_SHOWN = 5

# (what is wrong and what to do, a query whose first column names each case)
_CHECKS: tuple[tuple[str, LiteralString], ...] = (
    (
        "role vaultbrix_gate must be a superuser without login or members",
        "SELECT rolname FROM pg_roles r WHERE rolname = 'vaultbrix_gate' AND (rolcanlogin OR NOT rolsuper"
        " OR EXISTS (SELECT FROM pg_auth_members WHERE roleid = r.oid))",
    ),
    (
        "role vaultbrix_gate must own nothing but the gate",
        "SELECT pg_describe_object(s.classid, s.objid, s.objsubid) FROM pg_shdepend s"
        " WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = to_regrole('vaultbrix_gate') AND s.deptype = 'o'"
        " AND (s.dbid <> (SELECT oid FROM pg_database WHERE datname = current_database())"
        "  OR coalesce((SELECT schema FROM pg_identify_object(s.classid, s.objid, s.objsubid)), '') <> 'vaultbrix'"
        "   AND NOT (s.classid = 'pg_namespace'::regclass AND s.objid = to_regnamespace('vaultbrix'))"
        "   AND s.classid NOT IN ('pg_event_trigger'::regclass, 'pg_default_acl'::regclass, 'pg_trigger'::regclass))",
    ),
    (
        "in schema vaultbrix only role vaultbrix_gate may own anything",
        "SELECT f.oid::regprocedure::text FROM pg_proc f WHERE pronamespace = to_regnamespace('vaultbrix')"
        " AND proowner IS DISTINCT FROM to_regrole('vaultbrix_gate')::oid"
        " UNION ALL SELECT c.oid::regclass::text FROM pg_class c WHERE relnamespace = to_regnamespace('vaultbrix')"
        " AND relowner IS DISTINCT FROM to_regrole('vaultbrix_gate')::oid"
        " UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'vaultbrix'"
        " AND nspowner IS DISTINCT FROM to_regrole('vaultbrix_gate')::oid",
    ),
    (
        "nobody but the gate may write to or create in schema vaultbrix; revoke it",
        "SELECT format('%s on %s', a.privilege_type, c.oid::regclass) FROM pg_class c, aclexplode(c.relacl) a"
        " WHERE c.relnamespace = to_regnamespace('vaultbrix') AND a.grantee <> c.relowner"
        " UNION ALL SELECT format('%s on schema vaultbrix', a.privilege_type) FROM pg_namespace n,"
        " aclexplode(n.nspacl) a WHERE n.nspname = 'vaultbrix' AND a.grantee <> n.nspowner"
        " AND a.privilege_type <> 'USAGE'",
    ),
    (
        "tables that can be truncated without a guard; it is put back at the next check unless they are locked",
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner"
        " WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT r.rolsuper"
        " AND EXISTS (SELECT FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a"
        "  WHERE a.privilege_type = 'TRUNCATE')"
        " AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'vaultbrix_truncate_guard'"
        "  AND t.tgenabled = 'A' AND t.tgtype = 34 AND t.tgqual IS NULL"
        "  AND t.tgfoid = to_regprocedure('vaultbrix.guard_truncate()'))",
    ),
    (
        "tenants that may truncate a new table before it is guarded; the Tenant's next check takes that away",
        "SELECT r.rolname FROM vaultbrix.tenant t JOIN pg_roles r ON r.rolname = t.role_name"
        " WHERE NOT EXISTS (SELECT FROM pg_default_acl d WHERE d.defaclrole = r.oid AND d.defaclnamespace = 0"
        "  AND d.defaclobjtype = 'r' AND NOT EXISTS (SELECT FROM aclexplode(d.defaclacl) a"
        "   WHERE a.privilege_type = 'TRUNCATE'))"
        " OR EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a WHERE d.defaclrole = r.oid"
        "  AND d.defaclobjtype = 'r' AND a.privilege_type = 'TRUNCATE')",
    ),
    (
        "functions that run as a superuser, so past the gate, and that PUBLIC or a tenant may call; revoke EXECUTE",
        "SELECT f.oid::regprocedure::text FROM pg_proc f JOIN pg_roles o ON o.oid = f.proowner"
        " WHERE f.prosecdef AND o.rolsuper AND f.prorettype <> 'event_trigger'::regtype"
        " AND f.pronamespace IS DISTINCT FROM to_regnamespace('vaultbrix')::oid"
        " AND EXISTS (SELECT FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a"
        "  WHERE a.privilege_type = 'EXECUTE' AND (a.grantee = 0"
        "   OR EXISTS (SELECT FROM vaultbrix.tenant t JOIN pg_roles r ON r.rolname = t.role_name"
        "    WHERE pg_has_role(r.oid, a.grantee, 'MEMBER'))))",
    ),
    (
        "PUBLIC or a tenant may create what statements of others may mean by an unqualified name; revoke CREATE",
        "SELECT format('%s on %s', coalesce(r.rolname, 'PUBLIC'), o.name) FROM ("
        "  SELECT 'schema public' AS name, coalesce(nspacl, acldefault('n', nspowner)) AS acl FROM pg_namespace"
        "   WHERE nspname = 'public'"
        "  UNION ALL SELECT format('database %I', datname), coalesce(datacl, acldefault('d', datdba)) FROM pg_database"
        "   WHERE datname = current_database()) o,"
        " LATERAL aclexplode(o.acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee"
        " WHERE a.privilege_type = 'CREATE' AND (a.grantee = 0 OR EXISTS (SELECT FROM vaultbrix.tenant t"
        "  JOIN pg_roles m ON m.rolname = t.role_name WHERE pg_has_role(m.oid, a.grantee, 'MEMBER')))",
    ),
    (
        "roles that the gate exempts although a tenant is a member of them; revoke the membership",
        "SELECT format('%s of %s', t.role_name, r.rolname) FROM vaultbrix.tenant t JOIN pg_roles m ON m.rolname ="
        " t.role_name JOIN pg_roles r ON r.oid <> m.oid AND pg_has_role(m.oid, r.oid, 'MEMBER')"
        " WHERE r.rolsuper OR r.rolname IN ('pg_execute_server_program', 'pg_write_server_files',"
        "  'pg_read_server_files') OR EXISTS (SELECT FROM vaultbrix.exempt_role e WHERE e.role_name = r.rolname)"
        " UNION ALL SELECT e.role_name::text FROM vaultbrix.exempt_role e JOIN vaultbrix.tenant USING (role_name)",
    ),
)


async def audit_gate(connection: psycopg.AsyncConnection) -> list[str]:
    """Findings of drift and risk, each with its cases named; empty when all is well. For an admin."""
    cursor = await connection.execute(
        "SELECT e.evtname, e.evtevent, e.evtenabled::text, e.evttags IS NULL AND n.nspname = 'vaultbrix'"
        " AND o.rolname = 'vaultbrix_gate', f.proname FROM pg_event_trigger e JOIN pg_proc f ON f.oid = e.evtfoid"
        " JOIN pg_namespace n ON n.oid = f.pronamespace JOIN pg_roles o ON o.oid = e.evtowner"
    )
    present = {row[0]: tuple(row[1:]) for row in await cursor.fetchall()}
    findings = []
    for name, (event, function) in EVENT_TRIGGERS.items():
        if name not in present:
            findings.append(f"event trigger {name} is missing: the gate is open; reinstall it")
        elif present[name] != (event, "A", True, function):
            findings.append(f"event trigger {name} is not as installed or not ENABLE ALWAYS: the gate may be open")
    cursor = await connection.execute("SELECT to_regclass('vaultbrix.tenant') IS NULL")
    if await cursor.fetchone() == (True,):
        return findings
    for problem, query in _CHECKS:
        cursor = await connection.execute(query)
        cases = sorted(str(row[0]) for row in await cursor.fetchall())
        if cases:
            more = f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else ""
            findings.append(f"{problem}: {', '.join(cases[:_SHOWN])}{more}")
    return findings
