"""What goes along when a tenant's objects are dropped, and whose it is.

PostgreSQL's CASCADE takes along whatever depends on what is dropped, whoever owns it: columns of a tenant's type, views
of its tables, foreign keys, defaults that call its functions, policies for its role (PostgreSQL, 5.15).
"""

from dataclasses import dataclass

import psycopg
from psycopg import sql


@dataclass(frozen=True)
class Going:
    """An object by its place in the catalogues.

    ``of_others``: its kind and name as the gate and PostgreSQL's event triggers name it, where it is neither the
    tenant's nor a part of something else that is named; else empty.
    """

    classid: int
    objid: int
    of_others: str


async def going(connection: psycopg.AsyncConnection, role: str) -> list[Going]:
    """All that would go with schema and role of a tenant. Takes no lock. Raises psycopg.Error."""
    cursor = await connection.execute(_GOING_ALONG, {"role": role})
    return [Going(classid, objid, name or "") for classid, objid, name in await cursor.fetchall()]


# All that DROP SCHEMA and DROP OWNED would take along, as PostgreSQL finds it (dependency.c): what depends on an object
# or, where the object is gone as a whole, on a part of it; and what it is itself a part of. No lock is taken, since
# this is asked again and again while somebody's objects stand in the way.
_GOING = """
WITH RECURSIVE tenant AS (SELECT oid FROM pg_roles WHERE rolname = %(role)s),
ours AS (
  SELECT oid FROM tenant
  UNION ALL SELECT r.oid FROM vaultbrix.rule_login l JOIN pg_roles r ON r.rolname = l.login WHERE l.role_name = %(role)s
  UNION ALL SELECT m.member FROM tenant JOIN pg_auth_members m ON m.roleid = tenant.oid
    JOIN pg_auth_members j ON j.member = m.member AND j.roleid = to_regrole('vaultbrix_jobs')),
this_database AS (SELECT oid FROM pg_database WHERE datname = current_database()),
going(classid, objid, objsubid) AS (
  SELECT 'pg_namespace'::regclass::oid, oid, 0 FROM pg_namespace WHERE nspname = %(role)s
  UNION
  SELECT s.classid, s.objid, s.objsubid FROM pg_shdepend s, tenant, this_database d
   WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = tenant.oid AND s.dbid = d.oid
     AND (s.deptype = 'o' OR s.deptype = 'r' AND EXISTS (
       SELECT FROM pg_policy p WHERE p.oid = s.objid AND p.polroles = ARRAY[tenant.oid]))
  UNION
  SELECT next.* FROM going g, LATERAL (
    SELECT d.classid, d.objid, d.objsubid FROM pg_depend d
     WHERE d.refclassid = g.classid AND d.refobjid = g.objid AND g.objsubid IN (0, d.refobjsubid)
    UNION ALL
    SELECT d.refclassid, d.refobjid, d.refobjsubid FROM pg_depend d
     WHERE d.classid = g.classid AND d.objid = g.objid AND d.objsubid = g.objsubid AND d.deptype IN ('i', 'e')) next
),
"""

# An object without an owner of its own is that of what it was made for: a trigger, say, of its table. The bootstrap
# superuser's are not in pg_shdepend; a partition of theirs must not pass for one of the partitioned table's owner.
_OWNERS = """
belonging(classid, objid, to_classid, to_objid, owner) AS (
  SELECT g.classid, g.objid, g.classid, g.objid, o.owner FROM (SELECT DISTINCT classid, objid FROM going) g,
         LATERAL ({owner}) o
  UNION
  SELECT b.classid, b.objid, d.refclassid, d.refobjid, o.owner FROM belonging b
    JOIN pg_depend d ON d.classid = b.to_classid AND d.objid = b.to_objid AND d.deptype IN ('a', 'i'),
         LATERAL ({parent_owner}) o
   WHERE b.owner IS NULL
)
"""
_OWNER = """
  SELECT coalesce(
    (SELECT c.relowner FROM pg_class c
      WHERE {classid} = 'pg_class'::regclass AND c.oid = {objid} AND c.relkind NOT IN ('i', 'I', 't')),
    (SELECT s.refobjid FROM pg_shdepend s, this_database t WHERE s.dbid = t.oid AND s.classid = {classid}
        AND s.objid = {objid} AND s.objsubid = 0 AND s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o')) AS owner
"""

# Each object that goes; a name for those of others, unless they go as a part of one that is named.
_GOING_ALONG = sql.SQL(_GOING + _OWNERS).format(
    owner=sql.SQL(_OWNER.format(classid="g.classid", objid="g.objid")),
    parent_owner=sql.SQL(_OWNER.format(classid="d.refclassid", objid="d.refobjid")),
) + sql.SQL("""
, judged AS (
  SELECT g.*, coalesce((SELECT bool_or(b.owner IN (SELECT oid FROM ours)) FROM belonging b
                         WHERE b.classid = g.classid AND b.objid = g.objid), false) AS mine FROM going g)
SELECT j.classid, j.objid, (
  SELECT i.type || ' ' || i.identity FROM pg_identify_object(j.classid, j.objid, j.objsubid) i
   WHERE NOT j.mine AND NOT EXISTS (
     SELECT FROM pg_depend d JOIN judged whole ON whole.classid = d.refclassid AND whole.objid = d.refobjid
        AND whole.objsubid IN (0, d.refobjsubid)
      WHERE d.classid = j.classid AND d.objid = j.objid AND d.objsubid = j.objsubid AND d.deptype IN ('a', 'i', 'e')
        AND NOT whole.mine))
  FROM judged j
""")
