"""Kills, crashes, full disks and damaged files under load: the store has every record once, or says what is missing."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from tests.harness.audit_campaign import Campaign, campaign
from tests.harness.audit_oracle import Verdict
from tests.harness.postgres import PROGRAMS
from tests.harness.shell import wait_for

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
WIDTH = 16
HEADS = ("kills", " events", "lost", "duplicate", "changed", "gaps", "missing, told", "holes", "batches", "bad batches")


def kills(c: Campaign, times: int = 2) -> None:
    """SIGKILL of a shipper while it works, with rotation."""
    for number in range(times):
        c.progress()
        if number % 2:
            c.rotate()
        time.sleep(c.random.uniform(0, 0.5))
        c.kill(c.shippers[number % 2])
        c.start()


def store_ends(c: Campaign, times: int = 1) -> None:
    """The store stopped, stopped at once, and its postmaster killed."""
    postgres = c.store.postgres
    for _ in range(times):
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            c.progress()
            postgres.process.stop(how)
            c.rotate()
            time.sleep(0.5)
            c.kill(c.shipper)
            c.start()
            wait_for("the store starts again", lambda: started(c), pause=0.5)


def started(c: Campaign) -> bool:
    """Start the store unless it runs; its old processes may need a moment to end."""
    if c.store.postgres.process.running:
        return True
    try:
        c.store.postgres.start()
    except AssertionError:
        return False
    return True


def store_full(c: Campaign, times: int = 1) -> None:
    """No space left for the store, then some again."""
    for _ in range(times):
        c.progress()
        before = c.told().count("No space left")

        def full(before: int = before) -> bool:
            return c.told().count("No space left") > before or not c.store.postgres.process.running

        c.store_disk.fill()
        try:
            wait_for("the store is full", full, patience=120, tell=c.told)
            c.kill(c.shipper)
            c.start()
            time.sleep(1)
        finally:
            c.store_disk.free()
        wait_for("the store runs again", lambda: started(c), pause=0.5)
        c.progress()


def log_full(c: Campaign, times: int = 1) -> None:
    """No space left for the log: PostgreSQL drops lines, and every session that goes on shows a hole."""
    for _ in range(times):
        sessions = [c.database.login(c.load.roles[1]) for _ in range(3)]
        sent = dict.fromkeys((session.info.backend_pid for session in sessions), 0)

        def work(rounds: int, sessions: list[psycopg.Connection] = sessions, sent: dict[int, int] = sent) -> None:
            for number in range(rounds):
                for session in sessions:
                    session.execute(f"SELECT 'witness', {number}, '{'x' * 1000}'")
                    sent[session.info.backend_pid] += 1

        work(5)
        c.log_disk.fill()
        work(30)
        c.kill(c.shipper)
        c.log_disk.free()
        c.start()
        work(5)
        for session in sessions:
            session.close()
        c.load.stop()
        c.postgres.query("SELECT 1")
        c.rotate()
        c.postgres.query("SELECT 1")
        c.settle()
        missing = {pid: number - witnessed(c, pid) for pid, number in sent.items()}
        assert any(missing.values()), "nothing was dropped"
        # Each statement has two lines: what was run, and how long it took.
        told = {pid: told_missing(c, pid) for pid in sent}
        assert all(told[pid] >= 2 * missing[pid] - 1 for pid in sent if missing[pid]), (missing, told)
        c.start()


def witnessed(c: Campaign, pid: int) -> int:
    query = "SELECT count(*) FROM audit.record WHERE pid = %s AND kind = 'statement' AND statement ~ 'witness'"
    return int(c.store.query(query, [pid])[0][0])


def told_missing(c: Campaign, pid: int) -> int:
    query = (
        "SELECT coalesce(sum(last_line - first_line + 1), 0) FROM audit.hole"
        " WHERE session_id IN (SELECT session_id FROM audit.record WHERE pid = %s)"
    )
    return int(c.store.query(query, [pid])[0][0])


def source_crash(c: Campaign, times: int = 1) -> None:
    """The source's postmaster is killed, and then the process that writes its log."""
    for _ in range(times):
        c.progress()
        c.crash()
        c.start()
        c.progress()
        os.kill(c.logger, signal.SIGKILL)
        c.kill(c.second)
        c.start()
        c.rotate()


def deleted(c: Campaign, times: int = 1) -> None:
    """A file is deleted before it is read to its end; another one with shippers at work."""
    for _ in range(times):
        path = c.unread()
        c.damage(path)
        path.unlink()
        c.start()
        c.begun()
        path = c.rotate()
        c.damage(path)
        path.unlink()


def overwritten(c: Campaign, times: int = 1) -> None:
    """A file of the same size in place of one that is not read to its end: in place, or with its inode used again."""
    for number in range(times):
        for again in (False, True):
            path = c.unread()
            c.damage(path)
            before = path.stat()
            content = invented(before.st_size, f"{number}{again:d}")
            if again:
                path.unlink()
            path.write_bytes(content)
            after = path.stat()
            assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
            c.start()
            c.progress()


def rewritten(c: Campaign, times: int = 1) -> None:
    """A file is cut to half of what is stored, and another written anew without its first line, as an editor does."""
    for _ in range(times):
        path = c.unread()
        c.damage(path)
        os.truncate(path, path.read_bytes().index(b"\n", c.stored(path) // 2) + 1)
        c.start()
        path = c.unread()
        c.damage(path)
        edited = path.with_suffix(".new")
        edited.write_bytes(path.read_bytes().partition(b"\n")[2])
        edited.rename(path)
        c.start()
        c.progress()


def invented(size: int, session: str) -> bytes:
    """Lines of exactly so many bytes, numbered without holes."""
    found: list[bytes] = []
    left = size
    while left:
        entry = {
            "timestamp": "2026-01-01 00:00:00.000 UTC", "session_id": f"0.{session}", "line_num": len(found) + 1,
            "error_severity": "LOG", "message": "",
        }  # fmt: skip
        rest = left - len(json.dumps(entry)) - 1
        entry["message"] = "x" * (rest if rest < 4000 else 2000)
        found.append(json.dumps(entry).encode() + b"\n")
        left -= len(found[-1])
    assert left == 0
    return b"".join(found)


def truncated(c: Campaign, times: int = 1) -> None:
    """The file that PostgreSQL writes is cut to nothing, as copytruncate does."""
    for _ in range(times):
        path = c.begun()
        # Between the copy and the cut nobody may write.
        logger = c.logger
        os.kill(logger, signal.SIGSTOP)
        try:
            c.damage(path)
            os.truncate(path, 0)
        finally:
            os.kill(logger, signal.SIGCONT)
        c.progress()
        c.rotate()


def clock_stepped(c: Campaign, times: int = 1) -> None:
    """The source's clock and a shipper's go back and forth, so that names come out of order and come again."""
    assert FAKETIME, "libfaketime is missing; run: make setup"
    clock, new = c.path / "clock", c.path / "clock.new"
    clock.write_text("+0s\n")
    wrong = {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    c.load.stop()
    c.kill(c.second)
    c.postgres.stop()
    # Behind setpriv: what it shares between processes belongs to their user.
    command = c.postgres.process.command
    at = command.index(str(PROGRAMS / "postgres"))
    c.postgres.process.command = [
        *command[:at],
        "env",
        *(f"{name}={value}" for name, value in wrong.items()),
        *command[at:],
    ]
    c.second.env.update(wrong)
    c.postgres.start()
    c.start()
    for _ in range(times):
        for step in ("-1h", "+70s", "-3s", "+0s"):
            c.progress()
            # Whoever asks for the time meanwhile must not find half of it.
            new.write_text(f"{step}\n")
            new.replace(clock)
            c.postgres.query("SELECT pg_rotate_logfile()")
            time.sleep(1)
            c.keep()
        c.kill(c.second)
        c.start()
    clock.write_text("+0s\n")
    c.progress()
    c.load.stop()
    c.kill(c.second)
    c.postgres.stop()
    c.postgres.process.command = command
    for name in wrong:
        del c.second.env[name]
    c.postgres.start()
    c.start()


# What is done, how often in the long run, whether something must be told to be missing; None: it depends on the moment.
PHASES: dict[Callable[..., None], tuple[int, bool | None]] = {
    kills: (100, False),
    store_ends: (5, False),
    store_full: (3, False),
    log_full: (3, True),
    source_crash: (5, None),
    deleted: (5, True),
    overwritten: (3, True),
    rewritten: (3, True),
    truncated: (5, None),
    clock_stepped: (3, False),
}


def named(phase: Callable[..., None]) -> str:
    return phase.__name__.replace("_", " ")


def show(name: str, killed: int, v: Verdict) -> None:
    """A row of the table, under its heads."""
    values = (killed, v.events, v.lost, v.duplicate, v.changed, v.gaps, v.told, v.holes, v.batches, v.bad_batches)
    print("\n" + "phase".ljust(WIDTH) + "".join(f"{head:>{len(head) + 2}}" for head in HEADS))
    cells = (f"{value:>{len(head) + 2},}" for value, head in zip(values, HEADS, strict=True))
    print(name.ljust(WIDTH) + "".join(cells))


def decide(c: Campaign, name: str, *, gaps: bool | None) -> None:
    verdict = c.judge()
    show(name, c.kills, verdict)
    assert verdict.clean, verdict
    assert gaps is None or bool(verdict.gaps) == gaps, verdict


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_a_long_campaign_loses_doubles_and_changes_nothing(phase: Callable[..., None]) -> None:
    times, gaps = PHASES[phase]
    with campaign() as c:
        phase(c, times)
        decide(c, named(phase), gaps=gaps)


def test_one_of_each_loses_doubles_and_changes_nothing() -> None:
    with campaign(rate=5) as c:
        for phase in PHASES:
            began = time.monotonic()
            phase(c)
            print(f"{time.monotonic() - began:6.1f} s  {named(phase)}")
        decide(c, "one of each", gaps=True)
