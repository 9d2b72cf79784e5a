"""What auditing costs, and what the shipper does with what PostgreSQL writes, against rsyslog on the same log.

``make bench-audit`` prints tables and writes tests/bench/results/audit.json. Source, store, load and shipper share the
machine. VAULTBRIX_BENCH=short tries it out.
"""

import contextlib
import itertools
import os
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.harness import audit_oracle
from tests.harness.audit_oracle import Version
from tests.harness.bench import results, rsyslog
from tests.harness.bench.rsyslog import Rsyslog
from tests.harness.database import Database, directory
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import run, wait_for
from tests.harness.shipping import Shipping

SHORT = os.environ.get("VAULTBRIX_BENCH") == "short"
ROUNDS, SECONDS = (1, 3) if SHORT else (3, 8)
LINES = 30_000 if SHORT else 1_200_000
# A queue in memory is quick, and one that is careful stores a line at a time: it gets less to do.
DIRECT_LINES = 5_000 if SHORT else 60_000
KILLS = 3 if SHORT else 30
OFF = "-c pgaudit.log=none -c log_duration=off"
ON = "-c pgaudit.log=all -c log_duration=on"
LOADS = {"select-only": "--builtin=select-only", "tpcb": "--builtin=tpcb-like"}
# With a shipper as it is, and with one that has a tenth of the weight of the others where the processor is short.
SHIPPED = {"shipper": 1.0, "shipper, a tenth": 0.1}
SIDES = ("off", "on", *SHIPPED)
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
GROUP = Path("/sys/fs/cgroup") / ("" if UNIFIED else "cpu") / "vaultbrix-bench"

pytestmark = pytest.mark.timeout(1800)


class Bench:
    """A source with pgbench's tables, and a store; a shipper for each use, under a server's name of its own."""

    def __init__(self, path: Path) -> None:
        settings = {
            "log_connections": "off",
            "log_disconnections": "off",
            "max_wal_size": "4GB",
            "log_checkpoints": "off",
        }
        self.path = path
        self.database = Database(path, {**settings, "synchronous_commit": "off", "autovacuum": "off"})
        self.postgres = self.database.postgres
        self.postgres.start()
        self.postgres.query("CREATE EXTENSION pgaudit")
        self.parts = Shipping(path, self.database)
        self.store = self.parts.store
        self.store.start()
        self.parts.grants.write_text("")
        self.parts.grants.unlink()
        self.pgbench("-i", "-q", f"-s{1 if SHORT else 10}", options=OFF)
        self._numbers = itertools.count(1)

    def stop(self) -> None:
        """End both."""
        self.store.stop()
        self.postgres.stop()
        with contextlib.suppress(FileNotFoundError):
            GROUP.rmdir()

    def pgbench(self, *arguments: str, options: str) -> str:
        """Run it; returns what it says."""
        where = {"PGHOST": str(self.postgres.socket), "PGPORT": str(self.postgres.port), "PGUSER": "postgres"}
        done = run(
            "pgbench", *arguments, "postgres", env={**where, "PGOPTIONS": options}, timeout=600,
        )  # fmt: skip
        return done.stdout

    def tps(self, load: str, seconds: float, options: str, *more: str) -> float:
        """Transactions a second of four clients."""
        told = self.pgbench("-n", "-c4", "-j1", f"-T{seconds:.0f}", LOADS[load], *more, options=options)
        (found,) = (line.split()[2] for line in told.splitlines() if line.startswith("tps ="))
        return float(found)

    def shipper(self) -> "Shipper":
        """A new one, which begins with the log as it is."""
        return Shipper(self, f"bench{next(self._numbers)}")

    def clear(self) -> None:
        """Forget the log so far, and what is stored."""
        names = {path.name for path in self.postgres.logs.iterdir()}

        def rotated() -> bool:
            self.postgres.query("SELECT pg_rotate_logfile()")
            return len({path.name for path in self.postgres.logs.glob("*.json")} - names) > 0

        wait_for("there is a new file", rotated, pause=0.3)
        for name in names:
            (self.postgres.logs / name).unlink()
        tables = "record, batch, part, gap, quarantine, event, checkpoint, logfile, missing"
        with self.store.open() as owner:
            owner.execute(f"TRUNCATE {', '.join(f'audit.{table}' for table in tables.split(', '))} CASCADE".encode())

    def lines(self) -> int:
        """Lines in the log."""
        return sum(path.read_bytes().count(b"\n") for path in self.postgres.logs.glob("*.json"))

    def bytes(self) -> dict[str, int]:
        """Size of each file."""
        return {path.name: path.stat().st_size for path in self.postgres.logs.glob("*.json")}


class Shipper:
    """The product's process, with its use of the machine."""

    def __init__(self, bench: Bench, server: str) -> None:
        self._bench, self.server = bench, server
        bench.store.bind(server)
        process = bench.parts.another(server)
        process.command = [f"--server={server}" if word.startswith("--server=") else word for word in process.command]
        self.process = process

    def positions(self) -> dict[str, int]:
        """How far each file is stored."""
        rows = self._bench.store.query("SELECT file, position FROM audit.logfile WHERE server = %s", [self.server])
        return dict(rows)

    def settle(self) -> None:
        """Wait until all is stored."""
        wait_for("all is stored", self._all, patience=900, pause=0.2, tell=self.process.text)

    def _all(self) -> bool:
        positions = self.positions()
        return all(positions.get(name, 0) >= size for name, size in self._bench.bytes().items())


@dataclass
class Use:
    """CPU seconds so far and largest resident size in MiB of a process."""

    cpu: float
    rss: float

    @classmethod
    def of(cls, process: Process) -> "Use":
        """Of one that runs."""
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0]
        return cls((int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"), int(status) / 1024)


class Lag:
    """Age of the newest stored record, sampled while a load runs."""

    def __init__(self, bench: Bench) -> None:
        self.samples: list[float] = []
        self._bench = bench
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Lag":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _sample(self) -> None:
        newest = "SELECT at FROM audit.record WHERE tenant = '' ORDER BY at DESC LIMIT 1"
        with self._bench.store.open() as connection:
            while not self._ending.wait(0.1):
                if row := connection.execute(newest).fetchone():
                    self.samples.append((datetime.now(UTC) - row[0]).total_seconds())


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with directory() as path:
        made = Bench(path)
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture(autouse=True)
def shown(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    with capsys.disabled():
        yield


def quantile(values: list[float], part: float) -> float:
    """The value that so many are not above."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def weighing(part: float, command: list[str]) -> list[str]:
    """A command in a control group of its own, with that part of the usual weight."""
    if UNIFIED:
        (GROUP.parent / "cgroup.subtree_control").write_text("+cpu")
    GROUP.mkdir(exist_ok=True)
    weight = GROUP / ("cpu.weight" if UNIFIED else "cpu.shares")
    weight.write_text(str(round(part * (100 if UNIFIED else 1024))))
    return ["sh", "-c", f'echo $$ > {GROUP}/cgroup.procs && exec "$@"', "sh", *command]


def with_shipper(bench: Bench, load: str, weight: float) -> dict[str, float]:
    """One load while the shipper works."""
    bench.clear()
    shipper = bench.shipper()
    shipper.process.command = weighing(weight, shipper.process.command)
    shipper.process.start()
    try:
        shipper.settle()
        before, used = bench.lines(), Use.of(shipper.process)
        began = time.monotonic()
        with Lag(bench) as lag:
            tps = bench.tps(load, SECONDS, ON)
        took = time.monotonic() - began
        positions, sizes = shipper.positions(), bench.bytes()
        now = Use.of(shipper.process)
        lines = bench.lines() - before
        shipper.settle()
        return {
            "tps": tps, "lines_per_s": lines / took,
            "shipped_at_end": sum(positions.values()) / sum(sizes.values()),
            "lag_p50_s": quantile(lag.samples, 0.5), "lag_p99_s": quantile(lag.samples, 0.99),
            "cpu_s_per_s": (now.cpu - used.cpu) / took, "rss_mib": Use.of(shipper.process).rss,
            "behind_s": time.monotonic() - began - took,
        }  # fmt: skip
    finally:
        shipper.process.stop()


def test_what_auditing_costs(bench: Bench) -> None:
    """TPS by side, in turn in every round."""
    found: dict[str, dict[str, list[float]]] = {load: {side: [] for side in SIDES} for load in LOADS}
    shipped: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in itertools.product(LOADS, SHIPPED)}
    for number, load in itertools.product(range(ROUNDS), LOADS):
        for side in SIDES[number % len(SIDES) :] + SIDES[: number % len(SIDES)]:
            if side in SHIPPED:
                shipped[load, side].append(with_shipper(bench, load, SHIPPED[side]))
                found[load][side].append(shipped[load, side][-1]["tps"])
            else:
                found[load][side].append(bench.tps(load, SECONDS, ON if side == "on" else OFF))
    figures: dict[str, Any] = {}
    print(f"\n{'TPS, 4 clients':<32}{'TPS':>10}{'of off':>9}{'of on':>9}")
    for load, sides in found.items():
        figures[load] = {"rounds": ROUNDS, "seconds": SECONDS}
        for side, tps in sides.items():
            of = {
                other: round(statistics.median(b / a for a, b in zip(sides[other], tps, strict=True)), 3)
                for other in ("off", "on")
            }
            figures[load][side] = {"tps": [round(one) for one in tps], "to_off": of["off"], "to_on": of["on"]}
            print(f"{f'{load}, {side}':<32}{statistics.median(tps):>10,.0f}{of['off']:>9.2f}{of['on']:>9.2f}")
    heads = ("lines/s", "shipped at end", "lag p50 s", "lag p99 s", "CPU s/s", "RSS MiB", "behind s")
    print(f"\n{'with shipper':<32}" + "".join(f"{head:>{len(head) + 3}}" for head in heads))
    names = ("lines_per_s", "shipped_at_end", "lag_p50_s", "lag_p99_s", "cpu_s_per_s", "rss_mib", "behind_s")
    for (load, side), several in shipped.items():
        result = {name: round(statistics.median(one[name] for one in several), 3) for name in names}
        figures[load][side] |= result
        cells = (f"{result[name]:>{len(head) + 3},.2f}" for name, head in zip(names, heads, strict=True))
        print(f"{f'{load}, {side}':<32}" + "".join(cells))
    results.keep("audit", {"cost": figures})


def waiting(bench: Bench, lines: int) -> int:
    """Have so many lines wait in the log; returns how many there are."""
    bench.clear()
    # Two lines a transaction.
    bench.pgbench("-n", "-c4", f"-t{lines // 8}", LOADS["select-only"], options=ON)
    return bench.lines()


def test_how_fast_a_waiting_log_is_stored(bench: Bench) -> None:
    """From the first stored line to the last, by the shipper and by rsyslog."""
    figures: dict[str, Any] = {}
    print(f"\n{'waiting log':<24}{'lines':>12}{'seconds':>10}{'lines/s':>10}{'CPU s':>8}{'RSS MiB':>10}")

    def note(name: str, lines: int, began: float, use: Use) -> None:
        took = time.monotonic() - began
        figures[name] = {"lines": lines, "seconds": round(took, 2), "per_s": round(lines / took), **asdict(use)}
        print(f"{name:<24}{lines:>12,}{took:>10.1f}{lines / took:>10,.0f}{use.cpu:>8.1f}{use.rss:>10.0f}")

    lines = waiting(bench, LINES)
    shipper = bench.shipper()
    began = time.monotonic()
    shipper.process.start()
    try:
        shipper.settle()
        note("shipper", lines, began, Use.of(shipper.process))
    finally:
        shipper.process.stop()
    cost = results.read("audit")["cost"]
    for load in LOADS:
        times = figures["shipper"][f"to_{load}"] = round(
            figures["shipper"]["per_s"] / cost[load]["shipper"]["lines_per_s"], 2
        )
        print(f"{'':<24}{times:.2f} times what PostgreSQL writes under {load} beside it")
    figures["verify"] = verified(bench, lines)
    for name, way, few in (("rsyslog, queue", rsyslog.ASSISTED, 0), ("rsyslog, direct", rsyslog.DIRECT, 1)):
        lines = waiting(bench, DIRECT_LINES) if few else lines
        other = Rsyslog(bench.path / f"drain-{few}", bench.postgres.logs, bench.store, way)
        began = time.monotonic()
        other.process.start()
        try:
            wait_for("all is stored", lambda o=other, n=lines: o.stored() >= n, patience=900, pause=0.5)  # type: ignore[misc]
            note(name, lines, began, Use.of(other.process))
        finally:
            other.process.stop()
    results.keep("audit", {"drain": figures})


def verified(bench: Bench, lines: int) -> dict[str, Any]:
    """``vaultbrix audit verify`` of all that is stored."""
    keys = bench.path / "keys.pem"
    keys.write_text(bench.store.public_key)
    began = time.monotonic()
    done = run(
        *VAULTBRIX, "audit", "verify", f"--keys={keys}", env=bench.store.environment(bench.store.reader), timeout=900
    )
    took = time.monotonic() - began
    print(f"{'audit verify':<24}{lines:>12,}{took:>10.1f}{lines / took:>10,.0f}")
    return {
        "rows": lines,
        "seconds": round(took, 2),
        "per_s": round(lines / took),
        "said": done.stdout.splitlines()[-1:],
    }


def test_what_a_kill_costs(bench: Bench) -> None:
    """The shipper, and rsyslog in both ways, killed at the same moments while the same log is written."""
    figures: dict[str, Any] = {}
    print(f"\n{f'{KILLS} SIGKILLs':<34}{'lines':>11}{'lost':>11}{'duplicate':>11}{'changed':>11}")
    for name, way in (("rsyslog, queue", rsyslog.ASSISTED), ("rsyslog, direct", rsyslog.DIRECT)):
        bench.clear()
        other = Rsyslog(bench.path / f"kills-{len(figures)}", bench.postgres.logs, bench.store, way)
        shipper = bench.shipper()
        both = (shipper.process, other.process)
        ending = threading.Event()
        load = threading.Thread(target=slow_load, args=(bench, ending))
        for process in both:
            process.start()
        load.start()
        try:
            for number in range(KILLS):
                time.sleep(1 + 0.1 * (number % 7))
                if number % 3 == 0:
                    bench.postgres.query("SELECT pg_rotate_logfile()")
                for process in both:
                    process.kill()
                    process.start()
        finally:
            ending.set()
            load.join()
        shipper.settle()
        resting(other)
        for process in both:
            process.stop()
        files = [Version(path.name, path) for path in sorted(bench.postgres.logs.glob("*.json"))]
        with bench.store.open(options=audit_oracle.SETTINGS) as connection:
            verdict = audit_oracle.judge(connection, shipper.server, files, bench.store.public_key)
        compared = other.compared()
        for who, result in ((f"shipper beside {name}", verdict), (name, compared)):
            row = {key: getattr(result, key) for key in ("events", "lost", "duplicate", "changed")}
            figures[who] = {"kills": KILLS, **row}
            print(f"{who:<34}" + "".join(f"{value:>11,}" for value in row.values()))
        assert verdict.clean and not verdict.gaps, verdict
    results.keep("audit", {"kills": figures})


def slow_load(bench: Bench, ending: threading.Event) -> None:
    """What the slowest of them can follow."""
    while not ending.is_set():
        bench.tps("select-only", 1, ON, "--rate=300")


def resting(other: Rsyslog) -> None:
    """Wait until it stores no more."""
    before = -1
    while before != (before := other.stored()):
        time.sleep(5)
