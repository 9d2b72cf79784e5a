"""Read statements back, newest last, by tenant, person, address and time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

# Their own logins, and the one-time logins of their approvals. What a rehearsal did was rolled back.
_TENANTS = "(role ^@ 'tenant_' OR role ^@ 'vaultbrix_d_')"


@dataclass(frozen=True)
class Filter:
    """Which statements; an absent field does not filter. ``tenant`` is namespace/name, or the name alone.

    Without ``everybody``, only what tenants' roles did, not the operator and other admins.
    """

    tenant: str | None = None
    person: str | None = None
    address: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    everybody: bool = False
    limit: int = 200


def statements(connection: psycopg.Connection, wanted: Filter) -> Sequence[dict[str, Any]]:
    """The latest statements that match, oldest first. Raises psycopg.Error."""
    conditions: list[sql.Composable] = [sql.SQL("true" if wanted.everybody else _TENANTS)]
    values: dict[str, object] = {"limit": wanted.limit}
    for name, condition in (
        # Several rules may have let in the same address: then a record names them all.
        (
            "tenant",
            "%(tenant)s IN (SELECT unnest(ARRAY[t, split_part(t, '/', 2)])"
            " FROM unnest(string_to_array(tenant, ', ')) t)",
        ),
        ("person", "%(person)s = ANY(string_to_array(person, ', '))"),
        ("address", "address <<= %(address)s::inet"),
        ("since", "at >= %(since)s"),
        ("until", "at < %(until)s"),
    ):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(sql.SQL(condition))
            values[name] = value
    query = sql.SQL(
        "SELECT * FROM (SELECT tenant, person, ground, role, host(address) AS address, at, statement, command,"
        " duration_ms, outcome, sqlstate, message, session_id, line_num FROM audit.statement WHERE {}"
        " ORDER BY at DESC, session_id DESC, line_num DESC LIMIT %(limit)s) newest ORDER BY at, session_id, line_num"
    ).format(sql.SQL(" AND ").join(conditions))
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values).fetchall()
