"""From an admin's decision to DDL that has started, and a hundred decisions at once, against the same SQL by a script.

``make bench-ddl`` prints a table and merges ``runs`` into tests/bench/results/ddl.json. Through a Job is measured as
far as pass and Job exist: what comes then is the cluster's scheduler and kubelet.
"""

import asyncio
import http.client
import json
import secrets
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from tests.harness.apiserver import PORT as API_PORT
from tests.harness.bench import results
from tests.harness.network import MACHINE
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.world import JOBS, World, approval

from vaultbrix.ddl.gate import logins, passes
from vaultbrix.ddl.plan import plan
from vaultbrix.postgres import scram

pytestmark = pytest.mark.timeout(3600)

TRIES = 50
MANY = 100
PAUSE = 0.001


class Api:
    """One connection that is kept, so that no handshake counts as ours."""

    def __init__(self, world: World) -> None:
        context = ssl.create_default_context(cafile=str(world.api.authority))
        self._connection = http.client.HTTPSConnection(MACHINE, API_PORT, context=context)
        self._token = world.api.token

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        self._connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = self._connection.getresponse()
        said: dict[str, Any] = json.loads(answer.read())
        return said


class Bench:
    """A tenant with a table, and approvals of changes to it."""

    def __init__(self, world: World) -> None:
        self.place = TenantWithTables(world)
        self.api = Api(world)
        self.path = f"/apis/vaultbrix.com/v1alpha1/namespaces/{self.place.team}/ddlapprovals"
        self.session = world.postgres.connect()
        self.session.execute(f"SET ROLE {self.place.role}".encode())
        self.session.execute(f"SET search_path = {self.place.role}".encode())

    def pending(self, name: str, text: str, execution: str) -> str:
        """An approval that is rehearsed; returns its uid."""
        body = approval(self.place.team, name, self.place.tenant, text, execution=execution)
        self.api("POST", self.path, body)
        found = until(lambda: self.api("GET", f"{self.path}/{name}"), lambda o: "rehearsal" in o.get("status", {}))
        return str(found["metadata"]["uid"])

    def decide(self, name: str, text: str) -> float:
        """Write the decision; returns when."""
        decision = {"verdict": "Approved", "by": "boss@example.com", "sha256": plan(text).sha256}
        begun = time.perf_counter()
        self.api("PATCH", f"{self.path}/{name}", {"spec": {"decision": decision}})
        return begun

    def accepted(self, text: str) -> float:
        """Send the text until the gate lets it through; returns when the message was sent that it took."""
        while True:
            sent = time.perf_counter()
            result = self.session.pgconn.exec_(text.encode())
            if result.status is not psycopg.pq.ExecStatus.FATAL_ERROR:
                return sent
            time.sleep(PAUSE)

    def passes(self, uids: list[str]) -> int:
        ((count,),) = self.place.world.postgres.query(
            "SELECT count(*) FROM vaultbrix.ddl_pass WHERE pass_id = ANY (%s::uuid[])", [uids]
        )
        return int(count)

    def job(self, uid: str) -> bool:
        found = self.api("GET", f"/apis/batch/v1/namespaces/{JOBS}/jobs/ddl-{uid}")
        return "uid" in found.get("metadata", {})


def until(read: Callable[[], Any], good: Callable[[Any], bool], patience: float = 120) -> Any:
    deadline = time.monotonic() + patience
    while not good(found := read()):
        assert time.monotonic() < deadline, found
        time.sleep(PAUSE)
    return found


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    world = World()
    try:
        world.start()
        yield Bench(world)
    finally:
        world.stop()


def texts(prefix: str, count: int) -> dict[str, str]:
    return {f"{prefix}-{n}": f"ALTER TABLE b ADD {prefix}{n} int" for n in range(count)}


def floor(bench: Bench, count: int, *, login: bool) -> list[float]:
    """Seconds of pass, login and, without a login, the DDL itself, by a script with one connection."""

    async def issue() -> list[float]:
        taken = []
        postgres = bench.place.world.postgres
        async with await psycopg.AsyncConnection.connect(
            host=str(postgres.socket), port=postgres.port, user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            for n in range(count):
                text = f"ALTER TABLE b ADD floor{secrets.token_hex(4)} int"
                uid, until_ = str(uuid4()), datetime.now(UTC) + timedelta(hours=1)
                name = f"vaultbrix_d_{uid.replace('-', '')}"
                planned = plan(text)
                begun = time.perf_counter()
                await passes.issue_pass(
                    connection, pass_id=uid, role=bench.place.role, login=name if login else None,
                    approved_by="boss", expires_at=until_, plan=planned,
                )  # fmt: skip
                if login:
                    verifier = scram.verifier(str(n), secrets.token_bytes(scram.SALT_BYTES))
                    await logins.create_login(
                        connection, login=name, role=bench.place.role, verifier=verifier, valid_until=until_
                    )
                taken.append(time.perf_counter() - begun)
                if login:
                    await logins.drop_login(connection, name, bench.place.role)
        return taken

    return asyncio.run(issue())


def figures(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(value * 1000 for value in seconds)
    return {
        "p50_ms": round(statistics.median(ordered), 1),
        "p99_ms": round(ordered[max(0, int(len(ordered) * 0.99) - 1)], 1),
    }


def test_from_decision_to_ddl(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = {}
    times: list[float] = []
    for name, text in texts("session", TRIES).items():
        bench.pending(name, text, "Session")
        begun = bench.decide(name, text)
        times.append(bench.accepted(text) - begun)
    found["session"] = figures(times)
    times = []
    for name, text in texts("job", TRIES).items():
        uid = bench.pending(name, text, "Job")
        begun = bench.decide(name, text)
        until(lambda uid=uid: bench.job(uid), bool)  # type: ignore[misc]
        times.append(time.perf_counter() - begun)
    found["job"] = figures(times)
    found["session floor"] = figures(floor(bench, TRIES, login=False))
    found["job floor"] = figures(floor(bench, TRIES, login=True))
    for execution in ("Session", "Job"):
        wanted = texts(f"many{execution.lower()}", MANY)
        for name, text in wanted.items():
            bench.api(
                "POST", bench.path, approval(bench.place.team, name, bench.place.tenant, text, execution=execution)
            )
        uids = []
        for name in wanted:
            made = until(
                lambda name=name: bench.api("GET", f"{bench.path}/{name}"),  # type: ignore[misc]
                lambda o: "rehearsal" in o.get("status", {}),
            )
            uids.append(made["metadata"]["uid"])
        begun = time.perf_counter()
        for name, text in wanted.items():
            bench.decide(name, text)
        until(lambda uids=uids: bench.passes(uids), lambda n: n == MANY)  # type: ignore[misc]
        if execution == "Job":
            for uid in uids:
                until(lambda uid=uid: bench.job(uid), bool)  # type: ignore[misc]
        found[f"{MANY} {execution.lower()}s at once"] = {"all_ms": round((time.perf_counter() - begun) * 1000, 1)}
        taken = sum(floor(bench, MANY, login=execution == "Job")) * 1000
        found[f"{MANY} {execution.lower()}s at once floor"] = {"all_ms": round(taken, 1)}
    with capsys.disabled():
        print(f"\n{'decision → started':<32}{'p50 ms':>10}{'p99 ms':>10}{'all ms':>10}")
        for what, row in found.items():
            cells = "".join(f"{row.get(key, ''):>10}" for key in ("p50_ms", "p99_ms", "all_ms"))
            print(f"{what:<32}{cells}")
    results.keep("ddl", {"runs": found})
