"""Rehearsals on a server: pass and login of their own, the process that runs the text, and no trace afterwards."""

import asyncio
import contextlib
import json
import os
import secrets
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg

from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import ExecutionError
from vaultbrix.ddl.gate import logins, passes
from vaultbrix.ddl.plan import Plan
from vaultbrix.ddl.rehearsal import decisions as rehearsal
from vaultbrix.ddl.rehearsal.decisions import Effects, Table
from vaultbrix.postgres import scram
from vaultbrix.postgres.connect import Target, conninfo
from vaultbrix.postgres.scram import PASSWORD_BYTES
from vaultbrix.runtime.errors import Transient

# Starting the process, connecting, looking at what was done.
_SLACK = timedelta(seconds=15)


def new_pass() -> str:
    """The id of a pass that no approval has."""
    return str(uuid4())


@dataclass(frozen=True)
class Rehearsal:
    """One text, its tenant's role and the login that it is run with."""

    login: str
    role: str
    plan: Plan
    lock_timeout: timedelta
    allow_nested: bool = False
    pass_id: str = field(default_factory=new_pass)


async def rehearse(connection: psycopg.AsyncConnection, admin: Target, order: Rehearsal) -> Effects:
    """Run the text and roll it back; ``connection`` is the admin's. Raises Transient when it cannot be run now."""
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    until = datetime.now(UTC) + rehearsal.LONGEST + 2 * _SLACK
    # What one that was cut short has left would be used in the place of this one's pass.
    await _clean(connection, order)
    try:
        await passes.issue_pass(
            connection,
            pass_id=order.pass_id,
            role=order.role,
            login=order.login,
            approved_by="",
            expires_at=until,
            plan=order.plan,
            allow_nested=order.allow_nested,
            rehearsal=True,
        )
        await logins.create_login(
            connection,
            login=order.login,
            role=order.role,
            verifier=scram.verifier(password, secrets.token_bytes(scram.SALT_BYTES)),
            valid_until=until,
        )
        target = replace(
            admin,
            user=order.login,
            password=password,
            certificate="",
            key="",
            application="vaultbrix-rehearsal",
            options="",
            own_search_path=True,
        )
        return await _run(target, order)
    finally:
        # The login first: its session may hold locks, and the pass.
        await asyncio.shield(_clean(connection, order))


async def end(connection: psycopg.AsyncConnection, login: str) -> None:
    """End a rehearsal that may be running, with its login."""
    await logins.drop_login(connection, login)


async def sweep(connection: psycopg.AsyncConnection) -> None:
    """Forget the passes of rehearsals that were cut short."""
    await connection.execute(
        "DELETE FROM vaultbrix.ddl_pass p USING vaultbrix.rehearsal r"
        " WHERE r.pass_id = p.pass_id AND p.expires_at < clock_timestamp()"
    )


async def _clean(connection: psycopg.AsyncConnection, order: Rehearsal) -> None:
    if connection.closed:
        return
    await logins.drop_login(connection, order.login, order.role)
    await connection.execute("DELETE FROM vaultbrix.ddl_pass WHERE login = %s", [order.login])


async def _run(target: Target, order: Rehearsal) -> Effects:
    instructions = {
        "conninfo": conninfo(target),
        "role": order.role,
        "pass_id": order.pass_id,
        "texts": list(order.plan.texts[: rehearsal.rehearsable(order.plan)]),
        "lock_timeout_ms": int(min(order.lock_timeout, rehearsal.LONGEST_LOCK_WAIT).total_seconds() * 1000),
        "budget_ms": int(rehearsal.LONGEST.total_seconds() * 1000),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-sP",
        "-m",
        "vaultbrix.ddl.rehearsal.process",
        # An image may keep the packages where only its entry point looks for them.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout((rehearsal.LONGEST + _SLACK).total_seconds()):
            answer, _ = await process.communicate(json.dumps(instructions).encode())
    except TimeoutError:
        return Effects(0, error=ExecutionError(sqlstate="57014", message="it took too long"), nested=order.allow_nested)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return _effects(answer, process.returncode, order)


def _effects(answer: bytes, code: int | None, order: Rehearsal) -> Effects:
    try:
        seen: dict[str, Any] = json.loads(answer)
    except ValueError:
        # Killed, or out of memory beyond its own control: tried again, it would be so again.
        return Effects(0, error=ExecutionError(message=f"its process ended without an answer (exit code {code})"))
    if "duration_ms" not in seen:
        raise Transient(Reason.DATABASE_ERROR, f"the rehearsal was cut short: {seen.get('message', '')}")
    error = ExecutionError.model_validate(seen["error"]) if seen["error"] else None
    tables = tuple(
        Table(t["name"], t["rows"], t["bytes"], t["gone"], t["moved"], tuple(t["locks"]))
        for t in seen.get("tables", ())
    )
    return Effects(
        seen["duration_ms"],
        tuple(seen.get("drops", ())),
        tables,
        error,
        order.allow_nested,
        used_up_to=seen.get("used_up_to"),
    )
