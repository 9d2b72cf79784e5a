"""Sessions that PostgreSQL had and did not log: each is one gap in the record, whoever is started anew."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg import sql
from tests.harness.direct_access import held_session
from tests.harness.shell import wait_for
from tests.harness.shipping import Shipping, shipping
from tests.harness.world import SERVER_NAME, World

from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.agent.session_list import SessionList
from vaultbrix.audit.flow.flow_file import read_flow
from vaultbrix.audit.shipping.shipper import EVENTS_SECONDS
from vaultbrix.audit.shipping.unheard import UNHEARD_SECONDS
from vaultbrix.grants.sessions import read_sessions, session_id, sessions_file
from vaultbrix.postgres.connect import Target

ADDRESS = "203.0.113.62"


@pytest.fixture
def parts() -> Iterator[Shipping]:
    with shipping() as found:
        yield found


def look(parts: Shipping) -> None:
    """As the agent does every few seconds."""

    async def once() -> None:
        target = Target(
            host=str(parts.postgres.socket), port=parts.postgres.port, database="postgres", user="postgres",
            ssl_mode="disable",
        )  # fmt: skip
        control = SessionControl(target)
        await SessionList(control, sessions_file(parts.grants), "main", lambda: datetime.now(UTC)).look()
        await control.close()

    asyncio.run(once())


def log_connections(parts: Shipping, value: str) -> None:
    with parts.postgres.connect() as connection:
        for name in ("log_connections", "log_disconnections"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
    parts.postgres.query("SELECT pg_reload_conf()")
    wait_for("it holds", lambda: parts.postgres.query("SHOW log_disconnections") == [(value,)])


def session_without_a_line(parts: Shipping, role: str) -> Any:
    """One that says nothing, while nothing is logged of connections."""
    log_connections(parts, "off")
    connection = parts.database.login(role)
    log_connections(parts, "on")
    return connection


def gaps(parts: Shipping) -> list[str]:
    return [reason for (reason,) in parts.store.query("SELECT reason FROM audit.gap WHERE server = 'main' ORDER BY id")]


def told(parts: Shipping) -> list[str]:
    return [problem.reason for problem in read_flow(parts.path / "shipper.json").problems]


def test_a_session_that_was_not_logged_is_one_gap_and_one_that_was_is_none(parts: Shipping) -> None:
    role = parts.database.tenant("unheard")
    # What began before the record did may have been logged elsewhere.
    parts.session(role, lambda connection: connection.execute("SELECT 1"))
    # Starts of sessions are known in whole seconds.
    time.sleep(1)
    logged = parts.database.login(role)
    silent = session_without_a_line(parts, role)
    pid = silent.info.backend_pid
    look(parts)
    # It has gone by the time it is looked for.
    silent.close()
    wait_for("it is a gap", lambda: gaps(parts), patience=180, tell=parts.shipper.text)
    (reason,) = gaps(parts)
    assert f".{pid:x} of {role} from 127.0.0.1, since" in reason
    wait_for("flow.json says so", lambda: "SessionsUnrecorded" in told(parts))
    # Another shipper looks for it too, as long as the agent names it, and finds that it is told.
    parts.shipper.kill()
    parts.shipper.start()
    second = session_without_a_line(parts, role)
    look(parts)
    wait_for("the second is a gap", lambda: len(gaps(parts)) > 1, patience=180, tell=parts.shipper.text)
    assert [
        f".{session.info.backend_pid:x} of" in reason for session, reason in zip([second], gaps(parts)[1:], strict=True)
    ]
    logged.close()
    second.close()
    assert "Traceback" not in parts.shipper.text()


def test_a_session_that_was_logged_while_the_store_was_away_is_no_gap(parts: Shipping) -> None:
    role = parts.database.tenant("away")
    parts.session(role, lambda connection: connection.execute("SELECT 1"))
    parts.store.postgres.stop()
    time.sleep(1)
    connection = parts.database.login(role)
    look(parts)
    # So long that its lines are due.
    time.sleep(UNHEARD_SECONDS + 2)
    parts.store.postgres.start()
    asked = "SELECT 1 FROM audit.record WHERE role = %s AND pid = %s"
    wait_for("it is stored", lambda: parts.store.query(asked, [role, connection.info.backend_pid]))
    # Twice what it takes until such sessions are looked for.
    time.sleep(2 * EVENTS_SECONDS)
    assert gaps(parts) == []
    assert told(parts) == []
    connection.close()


def test_the_agent_writes_down_who_is_there(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    world.api.await_condition("accessrule", world.rule(team, tenant, f"{ADDRESS}/32"), team)
    session = held_session(world, ADDRESS, team, tenant, "there")
    ((pid, role, started),) = world.postgres.query(
        "SELECT pid, usename, floor(extract(epoch FROM backend_start))::bigint FROM pg_stat_activity"
        " WHERE client_addr = %s",
        [ADDRESS],
    )
    path = sessions_file(world.grants)
    wait_for(
        "it is written down",
        lambda: (
            (session_id(started, pid), role, ADDRESS)
            in [(seen.id, seen.role, seen.address) for seen in read_sessions(path, SERVER_NAME)]
        ),
    )
    session.kill()
