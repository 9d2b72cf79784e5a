"""How much a session writes into the log, and what a flood does to its disk over a day."""

import time
from datetime import UTC, datetime

import pytest
from tests.harness.log_lines import line

from vaultbrix.agent.decisions import LogFloor, LogRoom, below_floor
from vaultbrix.audit.flow.report import MOST_LOUD, Flow
from vaultbrix.audit.shipping.followed import Batch, Position
from vaultbrix.audit.shipping.intake import Intake
from vaultbrix.audit.shipping.room import Room, seconds_kept
from vaultbrix.audit.shipping.volume import LEAST_BYTES, MOST_SESSIONS, TOLD_SECONDS, Volume
from vaultbrix.grants.state import AgentState

MIB = 2**20
SESSION, MINUTE = "6560f.1f", "2026-12-01 18:00"


def test_a_session_is_told_with_what_it_wrote_within_a_minute_as_pg_stat_activity_names_it() -> None:
    volume = Volume()
    for size in (2 * MIB, 3 * MIB):
        volume.add({(SESSION, MINUTE): size}, {SESSION: "tenant_acme"}, 100.0)
    volume.add({(SESSION, "2026-12-01 18:01"): MIB}, {}, 101.0)
    (found,) = volume.loud(102.0)
    assert (found.pid, found.started_at) == (0x1F, datetime.fromtimestamp(0x6560F, UTC))
    assert (found.role, found.bytes, found.minute) == ("tenant_acme", 5 * MIB, datetime(2026, 12, 1, 18, tzinfo=UTC))
    assert volume.loud(100.0 + TOLD_SECONDS) == ()


def test_it_makes_no_difference_how_late_the_shipper_reads() -> None:
    """An hour of a session's log that is read within a second is not a minute's."""
    volume = Volume()
    for minute in range(60):
        volume.add({(SESSION, f"2026-12-01 18:{minute:02}"): LEAST_BYTES}, {}, minute / 60)
    (found,) = volume.loud(1.0)
    assert found.bytes == LEAST_BYTES


def test_what_is_told_is_bounded_whatever_sessions_do() -> None:
    volume = Volume()
    for number in range(2 * MOST_SESSIONS):
        volume.add({(f"6560f.{number:x}", MINUTE): LEAST_BYTES + number}, {f"6560f.{number:x}": "x" * 200}, 1.0)
    found = volume.loud(1.0)
    assert [session.pid for session in found] == [2 * MOST_SESSIONS - 1 - place for place in range(MOST_LOUD)]
    flow = Flow(server="main", at=datetime.now(UTC), loud=found)
    assert len(flow.model_dump_json()) < 8 * 1024
    assert len(volume._sessions) == MOST_SESSIONS


def test_every_line_counts_also_those_that_are_too_long_or_no_record() -> None:
    volume, timestamp = Volume(), f"{MINUTE}:30.123 UTC"
    good = line("x" * MIB, None, session_id=SESSION, timestamp=timestamp, user="tenant_acme")
    # As PostgreSQL writes it.
    good = good.replace(b'": ', b'":').replace(b', "', b',"')
    bad = good[:-3]
    batch = Batch("1.json", 0, Position(1, 0, b""), lines=[(0, good), (len(good), bad)])
    batch.set_aside(0, good[: 64 * 1024], 100 * MIB, "too long")
    Intake("main", volume).take(batch, AgentState("main"))
    (found,) = volume.loud(time.monotonic())
    assert found.bytes == len(good) + len(bad) + 100 * MIB
    assert found.role == "tenant_acme"


TOTAL, FILE, STEP, HOUR = 10 * 1024 * MIB, 64 * MIB, 10, 3600


class Day:
    """A disk that a flood of so many bytes a second fills, and that shipper and agent look after; a fake clock."""

    def __init__(self, rate: int, store_away: range = range(0)) -> None:
        self.least = TOTAL
        self.closed: list[int] = []
        room, floor, below = Room(), LogFloor(10, 1024 * MIB), False
        # Of each file when it was left and, later, stored; the flood writes the last one.
        files: list[int] = []
        writing = 0
        for now in range(0, 24 * HOUR, STEP):
            if not below:
                writing += rate * STEP
                while writing >= FILE:
                    files.append(now)
                    writing -= FILE
            free = TOTAL - len(files) * FILE - writing
            self.least = min(self.least, free)
            fills = bool(room.look(now, free, TOTAL))
            keep = seconds_kept(HOUR, disk_fills=fills)
            assert keep is not None
            if now not in store_away:
                files = [left for left in files if now - left < keep]
            below = below_floor(floor, LogRoom(free, TOTAL), was_below=below)
            if below:
                self.closed.append(now)


@pytest.mark.parametrize("rate", [MIB // 10, MIB, 4 * MIB, 16 * MIB, 50 * MIB])
def test_a_slow_flood_of_a_day_fills_no_disk_and_closes_nothing_while_it_is_stored(rate: int) -> None:
    day = Day(rate)
    assert day.closed == []
    assert day.least > TOTAL // 10


@pytest.mark.parametrize("rate", [MIB, 4 * MIB, 16 * MIB, 50 * MIB])
def test_while_the_store_is_away_a_flood_ends_at_the_floor_and_access_opens_after(rate: int) -> None:
    away = range(2 * HOUR, 12 * HOUR, STEP)
    day = Day(rate, away)
    assert day.least > TOTAL // 10 - rate * STEP - FILE
    assert day.closed
    assert away.start < day.closed[0] < day.closed[-1] < away.stop + 2 * STEP
