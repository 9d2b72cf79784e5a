"""Queries by which a change of a role of ours is seen: a fingerprint of each, and one value for all of them.

A fingerprint is other than before as soon as anything of the role was changed, since each change of a row gives it a
new xmin: attributes and verifier, memberships, settings in any database, the schema of the role's name with its owner
and rights, default privileges, and rights on the database.
"""

from psycopg import sql

# Once for a single role, by index, and once for all of them, each table read only once; both give the same text.
_FINGERPRINT = "ARRAY[r.xmin::text, {memberships}, {settings}, {schema}, {defaults}, {rights}]::text"
_PARTS = {
    "memberships": ("string_agg(m.xmin::text, ',' ORDER BY m.roleid, m.xmin::text)", "pg_auth_members m", "m.member"),
    "settings": (
        "string_agg(s.xmin::text, ',' ORDER BY s.setdatabase)",
        # The index begins with the database.
        "(SELECT 0::oid AS oid UNION ALL SELECT oid FROM pg_database) d"
        " JOIN pg_db_role_setting s ON s.setdatabase = d.oid",
        "s.setrole",
    ),
    "defaults": ("string_agg(d.xmin::text, ',' ORDER BY d.oid)", "pg_default_acl d", "d.defaclrole"),
    "rights": (
        "string_agg(a.privilege_type, ',' ORDER BY a.privilege_type)",
        "(SELECT datacl FROM pg_database WHERE datname = current_database()) d, aclexplode(d.datacl) a",
        "a.grantee",
    ),
}
_SCHEMA = "(SELECT n.xmin::text FROM pg_namespace n WHERE n.nspname = r.rolname)"
FINGERPRINT = sql.SQL(
    _FINGERPRINT.format(
        schema=_SCHEMA,
        **{
            part: f"(SELECT {value} FROM {source} WHERE {role} = r.oid)"  # noqa: S608 - texts from above
            for part, (value, source, role) in _PARTS.items()
        },
    )
)
"""For a row of pg_authid, ``r``."""

_JOINS = " ".join(
    f"LEFT JOIN (SELECT {role} AS role, {value} AS value FROM {source} GROUP BY 1) {part} ON {part}.role = r.oid"  # noqa: S608 - texts from above
    for part, (value, source, role) in _PARTS.items()
)
FINGERPRINTS = sql.SQL(
    "SELECT r.rolname::text, {fingerprint} FROM pg_authid r LEFT JOIN pg_namespace n ON n.nspname = r.rolname {joins}"
    " WHERE starts_with(r.rolname::text, 'tenant_') OR starts_with(r.rolname::text, 'vaultbrix_')"
).format(
    fingerprint=sql.SQL(_FINGERPRINT.format(schema="n.xmin::text", **{part: f"{part}.value" for part in _PARTS})),
    joins=sql.SQL(_JOINS),
)
"""(name, fingerprint) of tenants, logins of rules and Jobs, roles of the data API: each name of ours begins so."""

DIGEST = sql.SQL(
    "SELECT encode(sha256(convert_to(concat_ws(' ',"
    " (SELECT string_agg(xmin::text, ',' ORDER BY oid) FROM pg_authid),"
    " (SELECT string_agg(xmin::text, ',' ORDER BY roleid, member, xmin::text) FROM pg_auth_members),"
    " (SELECT string_agg(xmin::text, ',' ORDER BY setdatabase, setrole) FROM pg_db_role_setting),"
    " (SELECT string_agg(xmin::text, ',' ORDER BY oid) FROM pg_namespace WHERE starts_with(nspname::text, 'tenant_')),"
    " (SELECT string_agg(xmin::text, ',' ORDER BY oid) FROM pg_default_acl),"
    " (SELECT datacl::text FROM pg_database WHERE datname = current_database())), 'UTF8')), 'hex')"
)
"""A single value that differs as soon as a fingerprint does."""
