"""One tenant at its limit never costs another a login: the agent ends the sessions that take too much, and says so."""

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from tests.harness.command_line import Person
from tests.harness.greedy_tenant import ALL_LOCKS, IDLE_TRANSACTION, TEMPORARY_FILES, Attack
from tests.harness.rotation import Rotated
from tests.harness.shell import wait_for
from tests.harness.world import SERVER_NAME, World, server

from vaultbrix.audit.flow.flow_file import write_flow
from vaultbrix.audit.flow.report import Flow, LoudSession

LIMITS = {
    "maxRulesPerTenant": 1000,
    "maxConnectionsPerTenant": 8,
    "session": {"maxLocks": 10_000, "maxTempSpace": "50Mi", "maxTransactionAge": "1m", "maxLogPerMinute": "100Mi"},
}
GREEDY, GREEDY_TOO, NEIGHBOUR = "203.0.113.150", "203.0.113.151", "203.0.113.152"
# Within every limit, though not by far. The session is idle then, since a statement is a transaction of its own.
MODEST = ("SELECT count(pg_advisory_lock(i)) FROM generate_series(-9000, -1) i", "\\! sleep 3600")


@dataclass(frozen=True)
class Scene:
    """A tenant without measure, and one that is within its limits."""

    world: World
    team: str
    greedy: str
    neighbour: str
    rule: str
    modest: int
    """Process id of its session."""

    def attack(self, *statements: str, address: str = GREEDY) -> Attack:
        """The tenant without measure, sending these."""
        return Attack(self.world, address, self.team, self.greedy, statements)

    def neighbour_logs_in(self) -> bool:
        """Whether the other tenant gets in."""
        return self.world.psql(NEIGHBOUR, self.team, self.neighbour, "SELECT 1").works()

    def told(self, kind: str, name: str) -> str:
        """The events about an object of the team."""
        asked = f"involvedObject.kind={kind},involvedObject.name={name},reason=SessionsEnded"
        return self.world.api.kubectl("-n", self.team, "get", "events", f"--field-selector={asked}", "-o", "wide")


@pytest.fixture(scope="module")
def limited(running: World) -> Iterator[World]:
    running.heal()
    running.clear()
    running.api.apply(server(limits=LIMITS))
    yield running
    running.api.apply(server())
    running.heal()


@pytest.fixture(scope="module")
def acted(limited: World) -> Iterator[Scene]:
    world = limited
    team = world.team()
    greedy, neighbour = world.tenant(team), world.tenant(team)
    rules = [
        world.rule(team, greedy, f"{GREEDY}/32", f"{GREEDY_TOO}/32"),
        world.rule(team, neighbour, f"{NEIGHBOUR}/32"),
    ]
    for name in rules:
        world.api.await_condition("accessrule", name, team)
    modest = world.psql(NEIGHBOUR, team, neighbour, *MODEST).hold(world.directory / "modest.log")
    ((pid,),) = wait_for("a session is within its limits", lambda: idle(world, NEIGHBOUR), tell=modest.text)
    yield Scene(world, team, greedy, neighbour, rules[0], pid)
    modest.kill()


def idle(world: World, address: str, state: str = "idle") -> list[tuple[int]]:
    """The sessions from an address that have counted what they were asked to, and do nothing."""
    return world.postgres.query(
        "SELECT pid FROM pg_stat_activity WHERE state = %s AND query LIKE 'SELECT count%%' AND client_addr = %s",
        [state, address],
    )


@pytest.fixture
def scene(acted: Scene) -> Iterator[Scene]:
    yield acted
    assert idle(acted.world, NEIGHBOUR) == [(acted.modest,)], "a session within its limits was ended"
    wait_for("the neighbour gets in", acted.neighbour_logs_in, tell=acted.world.agent.text)


def test_a_statement_that_takes_all_locks_ends_again_and_again_while_others_log_in(scene: Scene) -> None:
    with scene.attack(*ALL_LOCKS) as attack:
        for times in range(1, 4):
            wait_for("it was ended", lambda n=times: attack.ended >= n, tell=scene.world.agent.text)
            wait_for("the neighbour gets in", scene.neighbour_logs_in, tell=scene.world.agent.text)
    assert "terminating connection due to administrator command" in attack.log.read_text()


def test_the_watchdog_tells_tenant_rule_server_and_whoever_asks_why(scene: Scene) -> None:
    world = scene.world
    with scene.attack(*ALL_LOCKS) as attack:
        wait_for("it was ended", lambda: attack.ended >= 1, tell=world.agent.text)

    def reported() -> str:
        (agent,) = world.api.get("accessrule", scene.rule, scene.team)["status"]["agents"]
        return str(agent["watchdog"]) if agent["endedByWatchdog"] else ""

    measured = wait_for("the rule's status says so", reported)
    assert re.fullmatch(r"(at least )?[0-9,]+ locks \(limit 10,000\)", measured)
    for kind, name in (("Tenant", scene.greedy), ("AccessRule", scene.rule)):
        wait_for(f"{kind} has an event", lambda k=kind, n=name: "(limit 10,000)" in scene.told(k, n))
    (agent,) = world.api.get("pgs", SERVER_NAME, "")["status"]["agents"]
    ended = {e["tenant"] for e in agent["watchdog"]["ended"] if e["tenant"].startswith(f"{scene.team}/")}
    assert ended == {f"{scene.team}/{scene.greedy}"}
    said = Person.admin(world, scene.team).succeeds("explain", "--ip", GREEDY, "--tenant", scene.greedy)
    assert f"rule {scene.rule}: " in said
    assert "ended by the watchdog, the latest for " in said


def test_a_full_lock_table_ends_whoever_filled_it_also_right_after_roles_have_changed(scene: Scene) -> None:
    """PostgreSQL then reads memberships anew, for which nobody gets a lock who does not hold it already."""
    world = scene.world
    world.agent.send(signal.SIGSTOP)
    try:
        world.postgres.query("CREATE ROLE someone_new IN ROLE vaultbrix_tenants")
        with scene.attack(*ALL_LOCKS) as attack:
            wait_for("nobody gets in", lambda: not scene.neighbour_logs_in())
            world.agent.send(signal.SIGCONT)
            wait_for("it was ended", lambda: attack.ended >= 1, tell=world.agent.text)
            wait_for("the neighbour gets in", scene.neighbour_logs_in, tell=world.agent.text)
    finally:
        world.agent.send(signal.SIGCONT)
        world.postgres.query("DROP ROLE IF EXISTS someone_new")


def test_connections_over_many_logins_are_cut_to_the_tenants_limit(scene: Scene) -> None:
    world = scene.world
    names = [world.rule(scene.team, scene.greedy, f"{GREEDY}/32", login="PerRule") for _ in range(3)]
    for name in names:
        world.api.await_condition("accessrule", name, scene.team)
    held = [
        world.psql(GREEDY, scene.team, scene.greedy, "SELECT pg_sleep(600)", secret_name=f"{name}-access").hold(
            world.directory / f"{name}-{number}.log"
        )
        for number in range(5)
        for name in names
    ]
    try:
        wait_for("all were tried", lambda: sum(process.running for process in held) <= 8, tell=world.agent.text)
        wait_for("the neighbour gets in", scene.neighbour_logs_in)
        ended = [process for process in held if not process.running]
        assert any("terminating connection due to administrator command" in process.text() for process in ended)
        assert sum(process.running for process in held) == 8
        wait_for("it is told", lambda: "connections (limit 8)" in scene.told("Tenant", scene.greedy))
    finally:
        for process in held:
            process.kill()


def test_connections_of_both_of_a_tenants_own_logins_count_together(scene: Scene) -> None:
    world = scene.world
    rotated = Rotated(world, keepPrevious="1h")
    held = [rotated.client("SELECT pg_sleep(600)").hold(world.directory / f"first-{n}.log") for n in range(6)]
    try:
        assert rotated.ask(rotateToken="one")["username"] == rotated.second
        held += [rotated.client("SELECT pg_sleep(600)").hold(world.directory / f"second-{n}.log") for n in range(6)]
        wait_for("it is cut", lambda: sum(process.running for process in held) == 8, tell=world.agent.text)
        wait_for("it is told", lambda: any("connections (limit 8)" in m for m in rotated.events("SessionsEnded")))
    finally:
        for process in held:
            process.kill()


def test_temporary_files_are_cut_to_the_tenants_limit(scene: Scene) -> None:
    with scene.attack(*TEMPORARY_FILES) as attack:
        wait_for("it was ended", lambda: attack.ended >= 1, tell=scene.world.agent.text)
        wait_for("the neighbour gets in", scene.neighbour_logs_in)
    assert "terminating connection" in attack.log.read_text()
    wait_for("it is told", lambda: "temporary files (limit 50 MiB)" in scene.told("Tenant", scene.greedy))


def test_a_session_that_floods_the_log_ends(scene: Scene) -> None:
    world = scene.world
    # It would write of the same session, and the truth.
    world.shipper.stop()
    psql = world.psql(GREEDY, scene.team, scene.greedy, "SELECT pg_sleep(600)").hold(world.directory / "flood.log")

    def started() -> list[tuple[int, datetime]]:
        return world.postgres.query(
            "SELECT pid, date_trunc('second', backend_start) FROM pg_stat_activity"
            " WHERE client_addr = %s AND query LIKE 'SELECT pg_sleep%%'", [GREEDY],
        )  # fmt: skip

    try:
        ((pid, begun),) = wait_for("it is there", started, tell=psql.text)
        role = f"tenant_{scene.greedy.replace('-', '_')}"
        loud = LoudSession(pid=pid, started_at=begun, role=role, minute=begun, bytes=200 * 2**20)

        def ended() -> bool:
            # As a shipper does, every second.
            write_flow(world.flow, Flow(server=SERVER_NAME, at=datetime.now(UTC), loud=(loud,)))
            return not psql.running

        wait_for("it was ended", ended, pause=1.0, tell=world.agent.text)
    finally:
        psql.kill()
        world.flow.unlink(missing_ok=True)
        world.shipper.start()
    wait_for("it is told", lambda: "200 MiB of log in a minute (limit 100 MiB)" in scene.told("Tenant", scene.greedy))


def test_a_transaction_that_is_left_open_ends_and_holds_back_no_notifications(scene: Scene) -> None:
    postgres = scene.world.postgres

    def open_() -> list[tuple[int]]:
        return idle(scene.world, GREEDY, "idle in transaction")

    def queued(notifications: int) -> float:
        """Send some, which is when PostgreSQL makes room for more; returns the part of the queue that is taken."""
        postgres.query(
            "SELECT pg_notify('anything', repeat('x', 7000) || i) FROM generate_series(1, %s) i", [notifications]
        )
        ((part,),) = postgres.query("SELECT pg_notification_queue_usage()")
        return float(part)

    with scene.attack(*IDLE_TRANSACTION):
        (first,) = wait_for("it is open", open_)
        held = queued(1000)
        assert held > 0
        wait_for("it was ended", lambda: first not in open_(), patience=150, tell=scene.world.agent.text)
    wait_for("the queue is free", lambda: queued(10) < held / 2)
    wait_for("it is told", lambda: "a transaction open for 1m (limit 1m)" in scene.told("Tenant", scene.greedy))


def test_an_admins_session_is_nobodys_to_end(scene: Scene) -> None:
    with scene.world.postgres.connect() as admin, scene.attack(*ALL_LOCKS) as attack:
        admin.execute("SELECT count(pg_advisory_lock(i)) FROM generate_series(3000000, 3020000) i")
        wait_for("the greedy one was ended", lambda: attack.ended >= 1, tell=scene.world.agent.text)
        assert admin.execute("SELECT 1").fetchone() == (1,)


def test_rights_that_are_granted_after_the_agents_start_are_used_at_once(scene: Scene) -> None:
    world = scene.world

    def problem() -> str:
        (agent,) = world.api.get("pgs", SERVER_NAME, "")["status"]["agents"]
        return str(agent.get("watchdog", {}).get("message", ""))

    world.postgres.query("REVOKE pg_read_all_stats FROM vaultbrix_agent")
    try:
        world.agent.stop()
        world.agent.start()
        wait_for("it says that it is blind", lambda: "no limit of sessions is watched" in problem(), tell=problem)
    finally:
        world.postgres.query("GRANT pg_read_all_stats TO vaultbrix_agent")
    wait_for("it says that all is well", lambda: problem() == "", tell=problem)
    with scene.attack(*ALL_LOCKS) as attack:
        wait_for("the greedy one was ended", lambda: attack.ended >= 1, tell=world.agent.text)
