"""Drops a tenant's role and schema with all that is the tenant's. What is another's keeps the rest from going."""

import psycopg
from psycopg import sql

from vaultbrix.api.conditions import Reason
from vaultbrix.ddl.gate import dependents
from vaultbrix.postgres import roles
from vaultbrix.runtime.errors import Blocked, Transient
from vaultbrix.runtime.visible import visible
from vaultbrix.tenants import claims

# So that a condition stays readable.
_SHOWN = 5
_LONGEST_NAME = 200

# What DROP OWNED leaves, and DROP ROLE would fail for.
_OUTSIDE = (
    "SELECT DISTINCT coalesce('what it has in database ' || d.datname, pg_describe_object(s.classid, s.objid, 0))"
    " FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid LEFT JOIN pg_database d ON d.oid = s.dbid"
    " WHERE s.refclassid = 'pg_authid'::regclass AND r.rolname = %(role)s"
    " AND (s.dbid = 0 AND s.deptype = 'o' OR d.datname <> current_database())"
)

# Both are there within the transaction alone, where nobody else sees them.
_BEGIN_NOTING = (
    "CREATE FUNCTION vaultbrix.note_dropped() RETURNS event_trigger LANGUAGE plpgsql"
    " SET search_path = pg_catalog, pg_temp AS $$ BEGIN"
    "  PERFORM set_config('vaultbrix.dropped', (current_setting('vaultbrix.dropped')::jsonb || coalesce(("
    "    SELECT jsonb_agg(jsonb_build_array(classid::bigint, objid::bigint, object_type || ' ' || object_identity))"
    "    FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary), '[]'))::text, true); END $$;"
    " SELECT set_config('vaultbrix.dropped', '[]', true);"
    " CREATE EVENT TRIGGER vaultbrix_note_dropped ON sql_drop EXECUTE FUNCTION vaultbrix.note_dropped()"
)
_END_NOTING = (
    "DROP EVENT TRIGGER vaultbrix_note_dropped; DROP FUNCTION vaultbrix.note_dropped();"
    " SELECT set_config('vaultbrix.dropped', '', true)"
)


async def drop(connection: psycopg.AsyncConnection, role: str, uid: str) -> None:
    """Drop schema and role with everything that is the role's, and free the slug (deletionPolicy Delete).

    Does nothing unless the role belongs to the Tenant object with that uid. Raises Blocked(DependentsRemain) as long as
    something of others would go along; the role stays locked, and nothing is dropped.
    """
    if not await claims.is_of(connection, role, uid):
        return
    await roles.lock(connection, role)
    async with connection.transaction():
        await claims.lock(connection, role)
        if not await claims.is_of(connection, role, uid):
            return
        objects = await dependents.going(connection, role)
        cursor = await connection.execute(_OUTSIDE, {"role": role})
        outside = [str(name) for (name,) in await cursor.fetchall()]
        others = outside + [going.of_others for going in objects if going.of_others]
        if others:
            raise Blocked(
                Reason.DEPENDENTS_REMAIN,
                f"nothing was dropped, since {role} has what others depend on or own: {_listed(others)}; "
                "drop these or give them to the tenant's role, or set spec.deletionPolicy to Retain",
            )
        await connection.execute(_BEGIN_NOTING)
        name = sql.Identifier(role)
        await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
        await connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(name))
        cursor = await connection.execute("SELECT current_setting('vaultbrix.dropped')::jsonb")
        row = await cursor.fetchone()
        assert row is not None
        known = {(going.classid, going.objid) for going in objects}
        unforeseen = [name for classid, objid, name in row[0] if (classid, objid) not in known]
        if unforeseen:
            # Made since the list was read; the exception undoes it all.
            raise Transient(Reason.WAITING, f"nothing was dropped, since {_listed(unforeseen)} would go along")
        await connection.execute(_END_NOTING)
        await connection.execute(sql.SQL("DROP ROLE {}").format(name))
        await connection.execute("DELETE FROM vaultbrix.tenant WHERE role_name = %s", [role])


def _listed(names: list[str]) -> str:
    ordered = sorted(set(names))
    shown = ", ".join(visible(name)[:_LONGEST_NAME] for name in ordered[:_SHOWN])
    return shown + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")
