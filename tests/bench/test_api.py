"""What the gateway costs against PostgREST alone, how soon an ended key is refused, and how soon a change is served.

``make bench-api`` prints tables and writes tests/bench/results/api.json. VAULTBRIX_BENCH_API names the parts to run,
such as ``throughput,rotation``; the others' figures stay as they were. What is compared is measured in turn.
"""

import contextlib
import itertools
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from tests.harness import builders
from tests.harness.apiserver import ApiServer
from tests.harness.bench import results
from tests.harness.bench.authorizer import SLUG, known
from tests.harness.bench.usage import cpu_seconds, family, resident_mib
from tests.harness.bench.wrk import Asked, Load, shown, wrk
from tests.harness.database import Database, free_port, running
from tests.harness.gateway import Nginx
from tests.harness.gateway_process import DOMAIN, GatewayProcess
from tests.harness.http_messages import request
from tests.harness.postgrest import PostgREST, served_roles, token
from tests.harness.processes import Process
from tests.harness.shell import TOP, wait_for
from tests.harness.slot import folder
from tests.harness.team import Team

from vaultbrix.api.apikey import APIKey, KeyKind
from vaultbrix.api.meta import rfc3339
from vaultbrix.dataapi.key import key_text, sha256_of, shown_prefix
from vaultbrix.dataapi.serving import schema

PARTS = os.environ.get("VAULTBRIX_BENCH_API", "throughput,rotation,visibility").split(",")
ROUNDS = 3
SECONDS = 4.0
# One at a time shows what the gateway adds to a request. With more than the processors can serve, times are those of a
# queue, and follow from the rates.
ONE_AT_A_TIME, BUSY = 1, (16, 128)
KEYS = 60
GOOD, REFUSED = 403, 401
SIZES = (10, 100, 300)
TABLES_OF_A_TENANT = 5
CHANGES = 5
ROLE = f"tenant_{SLUG}"
Figures = dict[str, Any]

READ = ("read", "GET", "/notes?select=id,text&id=eq.7", "")
WRITE = ("write", "POST", "/notes", '{"text": "n"}')


@pytest.mark.parametrize("part", PARTS)
def test_figures_of_the_data_api(part: str) -> None:
    load = " ".join(f"{each:.2f}" for each in os.getloadavg())
    print(f"\n== {part} (load of the machine before it: {load}; {os.cpu_count()} processors)", flush=True)
    figures = MEASURES[part]()
    results.keep("api", {part: {"load": load, **figures}})


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder that every user may enter; gone afterwards."""
    made = folder()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


class Door:
    """nginx and authorizer before a PostgREST that is asked past them, too, each a process of its own."""

    def __init__(self, directory: Path, database: Database) -> None:
        self.directory, self.database = directory, database
        self.socket = directory / "gateway.socket"
        self.sockets = directory / "sockets"
        self.sockets.mkdir()
        self.port = free_port()
        self.database.admin(schema.install)
        self.database.tenant(SLUG)
        # One behind nginx and one past it, alike but for where they listen: wrk asks no Unix socket.
        self.postgrest = PostgREST(self.sockets, database, SLUG)
        self.postgrest_alone = PostgREST(self.sockets, database, SLUG, port=self.port)
        self.authorizer = Process(
            [sys.executable, "-m", "tests.harness.bench.authorizer", str(self.socket)],
            directory / "authorizer.log",
            env={"PYTHONPATH": f"{TOP / 'operator'}:{TOP}"},
        )
        self.nginx = Nginx(directory, self.socket, self.sockets)
        self.key = known()[1]

    def start(self) -> None:
        with self.database.login(ROLE) as session:
            session.execute("CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)")
            session.execute("INSERT INTO notes (text) SELECT 'note ' || n FROM generate_series(1, 1000) n")
        self.database.postgres.query("ANALYZE")
        self.postgrest.serve()
        self.postgrest_alone.serve()
        self.authorizer.start()
        wait_for("the authorizer serves", self.socket.exists, tell=self.authorizer.text)
        self.nginx.start()

    def stop(self) -> None:
        self.nginx.stop()
        self.authorizer.stop()
        self.postgrest.stop()
        self.postgrest_alone.stop()

    def alone(self) -> dict[str, str]:
        """The headers with which the gateway would let a request on: the same token, minted a moment ago."""
        told = {
            "Host": "gateway", "X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/rest/v1/notes",
            "X-Forwarded-Host": DOMAIN, "X-Forwarded-For": "127.0.0.1", "apikey": self.key,
        }  # fmt: skip
        allowed = request(self.socket, "GET", "/forward", told).headers
        return {name: allowed[name.lower()] for name in ("Authorization", "Accept-Profile", "Content-Profile")}

    def load(self, what: tuple[str, str, str, str], connections: int, *, gateway: bool, seconds: float) -> Load:
        """So much load on the gateway, or on PostgREST alone."""
        _, method, target, body = what
        more = {"Content-Type": "application/json", "Prefer": "return=minimal"} if body else {}
        headers = {"apikey": self.key, "Host": DOMAIN} if gateway else self.alone()
        asked = Asked(method, ("/rest/v1" if gateway else "") + target, {**headers, **more}, body)
        port = self.nginx.port if gateway else self.port
        done = wrk(self.directory, port, asked, connections=connections, seconds=seconds)
        assert done.failed == 0, f"{done.failed} requests of {shown(asked, connections, seconds)} failed"
        return done

    def processes(self) -> dict[str, list[int]]:
        """Process ids by what they are."""
        return {
            "authorizer": [self.authorizer.pid],
            "nginx": family(self.nginx.pid),
            "postgrest": [self.postgrest.pid],
            "postgresql": family(self.database.postgres.process.pid),
        }


def throughput() -> Figures:
    """Reads and writes by the gateway and past it, in turn; then by the gateway with each statement on record."""
    with own_folder() as directory, running() as database:
        door = Door(directory, database)
        try:
            door.start()
            rows = [compared(door, what, count) for count in (ONE_AT_A_TIME, *BUSY) for what in (READ, WRITE)]
            resident = {name: round(resident_mib(pids), 1) for name, pids in door.processes().items()}
            audited = audited_rates(door)
        finally:
            door.stop()
    print(f"RSS in MiB, children included: {resident}\nrequests/s on record: {audited}")
    return {"rounds": ROUNDS, "seconds": SECONDS, "rows": rows, "rss_mib": resident, "audited_requests_per_s": audited}


def compared(door: Door, what: tuple[str, str, str, str], connections: int) -> Figures:
    """One kind of request: alone, by the gateway, alone, by the gateway, and so on."""
    pairs, cpu = [], dict.fromkeys(door.processes(), 0.0)
    _, method, target, body = what
    print(shown(Asked(method, target, {}, body), connections, SECONDS))
    for gateway in (False, True):
        door.load(what, connections, gateway=gateway, seconds=1)
    for _ in range(ROUNDS):
        alone = door.load(what, connections, gateway=False, seconds=SECONDS)
        before = {name: cpu_seconds(pids) for name, pids in door.processes().items()}
        through = door.load(what, connections, gateway=True, seconds=SECONDS)
        for name, pids in door.processes().items():
            cpu[name] += cpu_seconds(pids) - before[name]
        pairs.append((alone, through))
    requests = sum(through.rate for _, through in pairs) * SECONDS
    row = {
        "what": what[0],
        "connections": connections,
        "alone_per_s": round(statistics.median(a.rate for a, _ in pairs)),
        "gateway_per_s": round(statistics.median(g.rate for _, g in pairs)),
        "throughput_ratio": round(statistics.median(g.rate / a.rate for a, g in pairs), 3),
        "p50_added_ms": round(statistics.median(g.p50_ms - a.p50_ms for a, g in pairs), 2),
        "p99_ratio": round(statistics.median(g.p99_ms / a.p99_ms for a, g in pairs), 2),
        "cpu_us_per_request": {name: round(1e6 * used / requests) for name, used in cpu.items()},
    }
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def audited_rates(door: Door) -> dict[str, int]:
    """Requests per second by the gateway while pgaudit writes down each statement."""
    setting = sql.SQL("ALTER ROLE {} SET pgaudit.log = 'all'").format(sql.Identifier(f"vaultbrix_rest_{SLUG}"))
    with door.database.postgres.connect() as connection:
        connection.execute(setting)
    door.postgrest.serve()
    rates = {}
    for what in (READ, WRITE):
        runs = [door.load(what, BUSY[0], gateway=True, seconds=SECONDS).rate for _ in range(ROUNDS)]
        rates[what[0]] = round(statistics.median(runs))
    assert "AUDIT: SESSION" in door.database.postgres.log_text()[-100_000:]
    return rates


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99, in milliseconds."""
    ordered = sorted(1000 * each for each in seconds)
    return {"p50": round(statistics.median(ordered), 1), "p99": round(ordered[int(len(ordered) * 0.99)], 1)}


class Replica:
    """One gateway that is asked for one key all the time, and when it first refused it."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway

    def watch(self, text: str) -> threading.Thread:
        """Ask until it is refused; ``refused_at`` is when that answer was there (of time.monotonic)."""

        def ask() -> None:
            while self.gateway.ask(text) != REFUSED:
                time.sleep(0.001)
            self.refused_at = time.monotonic()

        thread = threading.Thread(target=ask)
        thread.start()
        return thread


def rotation() -> Figures:
    """From the API server's answer to a change until each of two replicas refuses the key."""
    with own_folder() as directory:
        api = ApiServer.alone(directory / "api")
        replicas = []
        try:
            api.start()
            team = Team(api)
            team.put(builders.tenant("acme"))
            for name in ("one", "two"):
                (directory / name).mkdir()
                replicas.append(Replica(GatewayProcess(directory / name, api.kubeconfig)))
                replicas[-1].gateway.start()
            numbers = itertools.count(1)
            revoked = [ended(team, replicas, next(numbers), revoke) for _ in range(KEYS)]
            rotated = [ended(team, replicas, next(numbers), rotate) for _ in range(KEYS)]
            resident = resident_mib([replicas[0].gateway.process.pid])
        finally:
            for replica in replicas:
                replica.gateway.process.kill()
            api.stop()
    figures = {
        "changes": KEYS,
        "replicas": len(replicas),
        "revoked_to_refused_ms": percentiles(list(itertools.chain(*revoked))),
        "rotate_to_refused_ms": percentiles(list(itertools.chain(*rotated))),
        "rss_mib": {"vaultbrix gateway": round(resident, 1)},
    }
    print(figures)
    return figures


def ended(team: Team, replicas: list[Replica], number: int, change: Callable[[Team, APIKey, int], None]) -> list[float]:
    """Seconds from the answer to a change of a new key until each replica has refused it."""
    text = key_text(KeyKind.SECRET, number.to_bytes(32, "big"))
    api_key = builders.api_key(f"key-{number}", status=active(text))
    team.put(api_key)
    for replica in replicas:
        wait_for("the key is known", lambda replica=replica: replica.gateway.ask(text) == GOOD)  # type: ignore[misc]
    asking = [replica.watch(text) for replica in replicas]
    change(team, api_key, number)
    changed_at = time.monotonic()
    for thread in asking:
        thread.join(60)
    # It may have heard of it before whoever made the change.
    return [max(0.0, replica.refused_at - changed_at) for replica in replicas]


def active(text: str) -> builders.Raw:
    """The status of a key with that text, as the operator writes it."""
    entry = {"sha256": sha256_of(text), "prefix": shown_prefix(text), "createdAt": rfc3339(builders.NOW)}
    return {"phase": "Active", "keys": [entry]}


def revoke(team: Team, api_key: APIKey, _: int) -> None:
    team.change(api_key, {"spec": {"revoked": True}})


def rotate(team: Team, api_key: APIKey, number: int) -> None:
    team.write_status(api_key, active(key_text(KeyKind.SECRET, (number + 10**6).to_bytes(32, "big"))))


def visibility() -> Figures:
    """How soon PostgREST serves a tenant that is new and a schema that changed, by the number of tenants beside it."""
    rows = []
    with own_folder() as directory, running() as database:
        database.admin(schema.install)
        slugs: list[str] = []
        for size in SIZES:
            while len(slugs) < size:
                slugs.append(make_tenant(database, len(slugs)))
            rows.append(visible(database, directory, slugs))
    return {"tables_of_a_tenant": TABLES_OF_A_TENANT, "changes": CHANGES, "rows": rows}


def make_tenant(database: Database, number: int) -> str:
    """A tenant with a few tables and a function; returns its slug."""
    slug = f"t{number}"
    role = database.tenant(slug)
    served_roles(database, slug)
    with database.login(role) as session:
        for table in range(TABLES_OF_A_TENANT):
            session.execute(
                sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, text text, at timestamptz)").format(
                    sql.Identifier(f"table{table}")
                )
            )
    make_function(database, slug, "there")
    return slug


def make_function(database: Database, slug: str, name: str) -> None:
    """Have a tenant make a function: unlike a table, PostgREST serves none that it has not read of."""
    with database.login(f"tenant_{slug}") as session:
        statement = sql.SQL("CREATE FUNCTION {} () RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'")
        session.execute(statement.format(sql.Identifier(name)))


def visible(database: Database, directory: Path, slugs: list[str]) -> Figures:
    """With these tenants: some more, one after the other, and a function more of each."""
    database.postgres.query("ANALYZE")
    tenants, functions, resident = [], [], 0.0
    size = len(slugs)
    for _ in range(CHANGES):
        slugs.append(make_tenant(database, len(slugs)))
        postgrest = PostgREST(directory, database, slugs[-1])
        try:
            begun = time.perf_counter()
            postgrest.serve()
            await_function(postgrest, slugs[-1], "there")
            tenants.append(time.perf_counter() - begun)
            make_function(database, slugs[-1], "later")
            begun = time.perf_counter()
            postgrest.read_again()
            await_function(postgrest, slugs[-1], "later")
            functions.append(time.perf_counter() - begun)
            resident = max(resident, resident_mib([postgrest.pid]))
        finally:
            postgrest.stop()
    row = {
        "tenants": size,
        "new_tenant_visible_s": round(statistics.median(tenants), 3),
        "new_tenant_visible_most_s": round(max(tenants), 3),
        "schema_change_visible_s": round(statistics.median(functions), 3),
        "schema_change_visible_most_s": round(max(functions), 3),
        "postgrest_rss_mib": round(resident, 1),
    }
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def await_function(postgrest: PostgREST, slug: str, name: str) -> None:
    """Ask until a tenant's function is served."""
    headers = {"Authorization": f"Bearer {token(vaultbrix={'role': f'tenant_{slug}'})}"}
    wait_for(
        f"{name} of {slug} is served",
        lambda: postgrest.send("GET", f"/rpc/{name}", headers).status == 200,
        patience=100,
        pause=0.01,
    )


MEASURES: dict[str, Callable[[], Figures]] = {
    "throughput": throughput,
    "rotation": rotation,
    "visibility": visibility,
}
