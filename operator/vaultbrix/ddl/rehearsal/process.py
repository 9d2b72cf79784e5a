"""``python -m vaultbrix.ddl.rehearsal.process``: run a text as its Job would, see what it does, roll it back.

A process of its own, with little memory: a text may answer with more rows, or raise longer messages, than the
operator has room for. The order comes on standard input as JSON, the password with it; what was seen goes to
standard output as JSON. The database refuses to commit what the pass of a rehearsal let through.
"""

import json
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from vaultbrix.ddl.job.message import LONGEST_MESSAGE, REFUSED_STATE, Refusals, describe, send

# PostgreSQL's answers are read into it.
MEMORY_BYTES = 96 * 1024 * 1024
# What libpq says then; it gives the connection up with some of it.
_NO_ROOM = "memory"
_CONNECTION_LOST = "08006"

# The tenant's tables that can be seen now: oid, name, rows, file. Asked as the login.
_TABLES = (
    "SELECT c.oid::bigint, c.oid::regclass::text, c.reltuples::bigint, c.relfilenode::bigint FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'm')"
    " AND n.nspname !~ '^pg_' AND pg_has_role(c.relowner, 'MEMBER')"
)
_LOCKS = (
    "SELECT relation::bigint, array_agg(DISTINCT mode) FROM pg_locks WHERE pid = pg_backend_pid() AND granted"
    " AND locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " GROUP BY relation"
)


@dataclass(frozen=True)
class Order:
    """What to run as whom: ``texts`` one by one, in ``budget_ms`` altogether."""

    conninfo: str
    role: str
    pass_id: str
    texts: list[str]
    lock_timeout_ms: int
    budget_ms: int


def rehearse(order: Order) -> dict[str, Any]:
    """Run and roll back; what was seen. Raises psycopg.Error when there is no connection."""
    with psycopg.connect(order.conninfo, autocommit=True, prepare_threshold=None) as connection:
        before = {row[0]: row[1:] for row in _look(connection, _TABLES)}
        begun = time.monotonic()
        try:
            connection.execute("BEGIN")
            error = _run(connection, order, begun)
            duration = int((time.monotonic() - begun) * 1000)
            seen: dict[str, Any] = {"duration_ms": duration, "error": error}
            if error is None:
                seen |= _effects(connection, order, before)
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")
        if error is None:
            _measure(connection, seen["tables"], order)
    return seen


def _run(connection: psycopg.Connection, order: Order, begun: float) -> dict[str, Any] | None:
    position, refusals = 0, Refusals(connection)
    try:
        connection.execute("SELECT vaultbrix.begin_rehearsal(%s)", [order.pass_id])
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(order.role)))
        for number, text in enumerate(order.texts, 1):
            position = number
            left = order.budget_ms - int((time.monotonic() - begun) * 1000)
            _set(connection, "statement_timeout", max(1, left))
            _set(connection, "lock_timeout", order.lock_timeout_ms)
            send(connection, text)
            if refusals.swallowed:
                return {"sqlstate": REFUSED_STATE, "message": refusals.swallowed, "statement": position}
    except psycopg.Error as error:
        primary = error.diag.message_primary or str(error) or type(error).__name__
        state = error.sqlstate or ("" if not connection.broken or _NO_ROOM in primary else _CONNECTION_LOST)
        message = describe(state, primary, error.diag.message_detail)
        return {"sqlstate": state, "message": message, "statement": position}
    return None


def _effects(connection: psycopg.Connection, order: Order, before: dict[int, tuple[str, int, int]]) -> dict[str, Any]:
    connection.execute("SET LOCAL ROLE NONE")
    _set(connection, "statement_timeout", order.budget_ms)
    drops = [row[0] for row in _look(connection, "SELECT vaultbrix.dropped(%s)", [order.pass_id])]
    ((used_up_to,),) = _look(connection, "SELECT vaultbrix.used_up_to(%s)", [order.pass_id])
    after = {row[0]: row[3] for row in _look(connection, _TABLES)}
    locks = {row[0]: row[1] for row in _look(connection, _LOCKS)}
    tables = [
        {
            "oid": oid,
            "name": name,
            "rows": rows,
            "bytes": 0,
            "gone": oid not in after,
            "moved": after.get(oid, file) != file,
            "locks": locks.get(oid, []),
        }
        for oid, (name, rows, file) in before.items()
        if oid in locks
    ]
    return {"drops": drops, "tables": tables, "used_up_to": used_up_to}


def _measure(connection: psycopg.Connection, tables: list[dict[str, Any]], order: Order) -> None:
    """Sizes, now that everything is as it was; of a table that somebody else has locked, none."""
    _set(connection, "lock_timeout", order.lock_timeout_ms, local=False)
    for table in tables:
        try:
            ((size,),) = _look(connection, "SELECT coalesce(pg_total_relation_size(%s::oid), 0)", [table["oid"]])
        except psycopg.errors.LockNotAvailable:
            size = 0
        table["bytes"] = size


def _look(connection: psycopg.Connection, query: str, parameters: list[object] | None = None) -> list[Any]:
    # The tenant's schema holds nothing that a query of ours could mean, whatever the text has made there.
    connection.execute("SET search_path = pg_catalog, pg_temp")
    rows = connection.execute(query.encode(), parameters).fetchall()
    if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        connection.execute("RESET search_path")
    return rows


def _set(connection: psycopg.Connection, name: str, milliseconds: int, *, local: bool = True) -> None:
    connection.execute(
        sql.SQL("SET {} {} = {}").format(
            sql.SQL("LOCAL" if local else ""), sql.Identifier(name), sql.Literal(milliseconds)
        )
    )


def main() -> int:
    """Exit code 0 with what was seen, 1 with {sqlstate, message} of the connection's failure."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    order = Order(**json.load(sys.stdin))
    try:
        seen = rehearse(order)
    except psycopg.Error as error:
        lines = (error.diag.message_primary or str(error)).strip().splitlines()
        message = lines[0][:LONGEST_MESSAGE] if lines else type(error).__name__
        json.dump({"sqlstate": error.sqlstate or "", "message": message}, sys.stdout)
        return 1
    except MemoryError:
        seen = {
            "duration_ms": 0,
            "error": {"sqlstate": "", "message": "it answers with more than a rehearsal has room for", "statement": 0},
        }
    json.dump(seen, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
