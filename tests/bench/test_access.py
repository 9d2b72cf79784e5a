"""How long a rule takes to let somebody in and to throw him out, against a bare script's floor in the same run.

``make bench-access`` prints a table and writes tests/bench/results/access.json.
"""

import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.harness.bench import results
from tests.harness.bench.api import Api
from tests.harness.bench.clients import Clients, conninfo, percentiles
from tests.harness.network import SERVER
from tests.harness.shell import TOP, run, wait_for
from tests.harness.world import PORT, World, rule

TRIES = 200
SIZES = (1, 1_000, 10_000)
# As many as PostgresServer's limit allows a tenant by default.
RULES_OF_A_TENANT = 50
LATE_SESSIONS = 100
DOORS = 40
BURST = 1_000
ADDRESS = "203.0.113.7"
Figures = dict[str, Any]


class Rules:
    """Rules by the hundred, of tenants made for them."""

    def __init__(self, world: World, api: Api) -> None:
        self._world, self._api = world, api
        self.team = world.team()
        self.path = f"/apis/vaultbrix.com/v1alpha1/namespaces/{self.team}/accessrules"
        self.tenants: list[str] = []
        self.count = 0

    def tenant(self, number: int) -> str:
        while len(self.tenants) <= number:
            self.tenants.append(self._world.tenant(self.team, wait=False))
        return self.tenants[number]

    def fill(self, count: int) -> None:
        """Have so many rules open."""
        for number in range((count + RULES_OF_A_TENANT - 1) // RULES_OF_A_TENANT):
            self.tenant(number)
        for name in self.tenants:
            self._world.api.await_condition("tenant", name, self.team, patience=120)
        while self.count < count:
            address = f"198.18.{self.count // 250}.{self.count % 250 + 1}/32"
            tenant = self.tenants[self.count // RULES_OF_A_TENANT]
            self._api("POST", self.path, rule(self.team, f"open-{self.count}", tenant, address, ttl="20h"))
            self.count += 1
        wait_for("all are open", lambda: entries(self._world, "198.18.") == count, patience=60 + count / 20, pause=1)
        quiet(self._world)


def entries(world: World, prefix: str) -> int:
    saved = run(*world.network.inside("server", ["ipset", "save", "vbx-allow4"])).stdout
    return saved.count(f"add vbx-allow4 {prefix}")


def writes(world: World) -> int:
    """Writes that the API server took so far, without Leases."""
    text = world.api.kubectl("get", "--raw", "/metrics")
    found = re.findall(r"^apiserver_request_total\{([^}]*)\} (\S+)$", text, re.MULTILINE)
    return sum(
        int(float(value))
        for labels, value in found
        if re.search(r'verb="(POST|PUT|PATCH|APPLY|DELETE)"', labels) and 'resource="leases"' not in labels
    )


def quiet(world: World) -> None:
    """Wait until nothing more is written."""

    def still() -> bool:
        before = writes(world)
        time.sleep(3)
        return writes(world) == before

    wait_for("nothing is written any more", still, patience=900, pause=0)


def floor(world: World) -> list[float]:
    """The same pg_hba.conf written, reloaded, and an address added to a set, by a script with nothing around it."""
    run(*world.network.inside("server", ["ipset", "-exist", "create", "floor", "hash:net", "timeout", "0"]))
    content = world.postgres.hba_file.read_text()
    script = [sys.executable, str(TOP / "tests/harness/bench/floor.py")]
    where = [str(world.postgres.socket), str(world.directory / "floor.conf"), str(TRIES)]
    done = run(*world.network.inside("server", [*script, *where]), input_text=content)
    return [float(line) for line in done.stdout.split()]


def in_and_out(world: World, api: Api, clients: Clients, rules: Rules, tenant: str) -> tuple[list[float], list[float]]:
    """Seconds from a rule's creation until its client is in, and from its deletion until the session is dead."""
    where = conninfo(world, rules.team, tenant)
    opened, ended = [], []
    for number in range(TRIES):
        client = clients.start("session", conninfo=where)
        time.sleep(0.05)
        begun = time.time()
        api("POST", rules.path, rule(rules.team, f"try-{number}", tenant, f"{ADDRESS}/32"))
        opened.append(clients.when(client, "in") - begun)
        time.sleep(0.15)
        begun = time.time()
        api("DELETE", f"{rules.path}/try-{number}")
        ended.append(clients.when(client, "out") - begun)
        time.sleep(0.05)
    return opened, ended


def lateness(world: World, api: Api, clients: Clients, rules: Rules, prefix: str, *, alone: bool) -> dict[str, float]:
    """By how much sessions outlive their rules' deadlines; ``alone``: with operator and API server dead."""
    begin = int(time.time()) + 25
    waiting = []
    for number in range(LATE_SESSIONS):
        tenant = rules.tenants[number]
        deadline = begin + number // 4
        until = datetime.fromtimestamp(deadline, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        api("POST", rules.path, rule(rules.team, f"{prefix}-{number}", tenant, f"{ADDRESS}/32", expiresAt=until))
        client = clients.start("session", conninfo=conninfo(world, rules.team, tenant))
        waiting.append((client, deadline))
    for client, _ in waiting:
        clients.when(client, "in")
    if alone:
        world.operator.kill()
        world.api.pause()
    try:
        late = [clients.when(client, "out", patience=120) - deadline for client, deadline in waiting]
    finally:
        if alone:
            world.api.resume()
            world.operator.start()
    return {**percentiles(late), "min": round(min(late) * 1000, 1)}


def by_the_kernel_alone(world: World, api: Api, rules: Rules) -> dict[str, float]:
    """The same for TCP connections with every process of ours dead."""
    addresses = [f"203.0.113.{100 + number}" for number in range(DOORS)]
    for address in addresses:
        run(*world.network.inside(ADDRESS, ["ip", "addr", "add", f"{address}/32", "dev", "lo"]))
        run(
            *world.network.inside(
                "server", ["ip", "route", "add", f"{address}/32", "via", world.network.gateway(ADDRESS)]
            )
        )
    clients = Clients(world, ADDRESS)
    begin = int(time.time()) + 20
    for number, address in enumerate(addresses):
        until = datetime.fromtimestamp(begin + number // 4, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        tenant = rules.tenants[number]
        api("POST", rules.path, rule(rules.team, f"door-{number}", tenant, f"{address}/32", expiresAt=until))
    wait_for("all doors are open", lambda: entries(world, "203.0.113.1") >= DOORS)
    numbers = [clients.start("door", source=address, host=SERVER, port=PORT) for address in addresses]
    for number in numbers:
        clients.when(number, "in")
    for process in (world.agent, world.operator):
        process.kill()
    world.api.pause()
    late = []
    for index, number in enumerate(numbers):
        late += [clients.when(number, event, patience=90) - (begin + index // 4) for event in ("refused", "broken")]
    clients.stop()
    world.api.resume()
    world.heal()
    return {**percentiles(late), "min": round(min(late) * 1000, 1)}


def burst(world: World, api: Api, clients: Clients, rules: Rules) -> float:
    """Seconds after the one deadline of a thousand rules until the last is closed, sessions included."""
    deadline = int(time.time()) + 60
    until = datetime.fromtimestamp(deadline, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for number in range(BURST):
        tenant = rules.tenants[number // 10]
        address = f"{ADDRESS}/32" if number % 10 == 0 else f"198.19.{number // 250}.{number % 250 + 1}/32"
        api("POST", rules.path, rule(rules.team, f"burst-{number}", tenant, address, expiresAt=until))
    sessions = [
        clients.start("session", conninfo=conninfo(world, rules.team, rules.tenants[number])) for number in range(50)
    ]
    for client in sessions:
        clients.when(client, "in")
    time.sleep(max(0.0, deadline - time.time()))
    wait_for("no line is left", lambda: " 198.19." not in world.postgres.hba_file.read_text(), pause=0.02)
    closed = time.time()
    return round(max(closed, *(clients.when(client, "out") for client in sessions)) - deadline, 2)


def at_rest(world: World) -> tuple[float, float, float]:
    """The agent's resident memory in MiB, its share of one processor, and writes per minute."""
    quiet(world)
    status = Path(f"/proc/{world.agent.pid}/status").read_text()
    memory = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def processor() -> float:
        fields = Path(f"/proc/{world.agent.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    before, busy = writes(world), processor()
    time.sleep(60)
    return round(memory, 1), round((processor() - busy) / 60, 3), writes(world) - before


@pytest.mark.timeout(7200)
def test_access(world: World) -> None:
    api = Api(world)
    clients = Clients(world, ADDRESS)
    rules = Rules(world, api)
    mine = rules.tenant(0)
    figures: Figures = {"apply_to_connect_ms": {}, "revoke_to_dead_ms": {}, "expiry_late_ms": {}}
    world.api.await_condition("tenant", mine, rules.team)
    # A tenant of its own, so that its limit of rules is not met.
    mine = world.tenant(rules.team)
    for size in SIZES:
        rules.fill(size - 1)
        say(f"{size} rules open")
        opened, ended = in_and_out(world, api, clients, rules, mine)
        figures["apply_to_connect_ms"][str(size)] = percentiles(opened)
        figures["revoke_to_dead_ms"][str(size)] = percentiles(ended)
        say(json.dumps(figures))
        if size == 1:
            figures["floor_ms"] = percentiles(floor(world))
        if size == SIZES[-1]:
            figures["agent_rss_mib"], figures["agent_cpu_share"], figures["idle_writes_per_min"] = at_rest(world)
            figures["floor_10000_ms"] = percentiles(floor(world))
            say(json.dumps(figures))
    say("expiry")
    figures["expiry_late_ms"]["all_up"] = lateness(world, api, clients, rules, "late", alone=False)
    figures["expiry_late_ms"]["control_plane_down"] = lateness(world, api, clients, rules, "alone", alone=True)
    api = Api(world)
    figures["burst_1000_s"] = burst(world, api, clients, rules)
    figures["expiry_late_ms"]["agent_down"] = by_the_kernel_alone(world, api, rules)
    clients.stop()
    results.keep("access", figures)
    table(figures)


def say(text: str) -> None:
    print(f"[{datetime.now(UTC):%H:%M:%S}] {text}", flush=True)


def table(figures: Figures) -> None:
    bare = figures["floor_ms"]["p50"]
    print(f"\n{'':<44}{'p50 ms':>9}{'p99 ms':>9}{'min ms':>9}{'p50 / floor':>13}")
    rows = [(f"rule applied → connected, {n} open", f) for n, f in figures["apply_to_connect_ms"].items()]
    rows += [(f"rule deleted → session dead, {n} open", f) for n, f in figures["revoke_to_dead_ms"].items()]
    rows += [(f"deadline → dead, {n}", f) for n, f in figures["expiry_late_ms"].items()]
    rows += [("floor: hba write, reload, ipset add", figures["floor_ms"])]
    for name, f in rows:
        print(f"{name:<44}{f['p50']:>9}{f['p99']:>9}{f.get('min', ''):>9}{f['p50'] / bare:>13.1f}")
    for name in ("burst_1000_s", "agent_rss_mib", "agent_cpu_share", "idle_writes_per_min"):
        print(f"{name:<44}{figures[name]:>9}")
