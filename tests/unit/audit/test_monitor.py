"""flow.json and the anchor file as a shipper writes them and others read them."""

import asyncio
import json
import os
import socket
import urllib.request
from pathlib import Path

import pytest
from tests.harness.builders import HOUR, MINUTE, NOW

from vaultbrix.agent.audit_guard import AuditGuard, LogDisk
from vaultbrix.agent.decisions import LogFloor, LogRoom
from vaultbrix.api.conditions import Reason
from vaultbrix.audit.flow.flow_file import read_flow, write_flow
from vaultbrix.audit.flow.report import MOST_PROBLEMS, Flow, Head, Problem
from vaultbrix.audit.shipping.anchor import AnchorFile
from vaultbrix.audit.shipping.metrics import serving
from vaultbrix.audit.shipping.monitor import Monitor
from vaultbrix.audit.shipping.reader import LogDirectory
from vaultbrix.audit.shipping.room import seconds_kept
from vaultbrix.grants.state import AgentState, AuditSeen

HEAD = Head(batch=7, head="a" * 64, sealed_at=NOW)


def test_flow_json_reads_as_it_was_written(tmp_path: Path) -> None:
    problem = Problem(Reason.LOG_MISCONFIGURED, 'log_destination is "stderr"')
    flow = Flow(server="main", at=NOW, complete_until=NOW, latest=HEAD, problems=(problem,), gaps=2)
    write_flow(tmp_path / "flow.json", flow)
    assert read_flow(tmp_path / "flow.json") == flow
    assert (tmp_path / "flow.json").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["flow.json"]


LATE = b'{"server": "main", "at": "2026-12-01T12:00:00Z", "late_seconds": %s}'


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"server": "main"}', b"\xff\xfe", b"[]", b"x" * 200_000, b"[" * 60_000]
    + [LATE % number for number in (b"-1", b"NaN", b"1e999")],
)
def test_what_is_no_flow_json_is_told_and_not_believed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flow.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a flow\.json"):
        read_flow(path)


def test_a_pipe_or_a_link_in_its_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    write_flow(tmp_path / "real", Flow(server="main", at=NOW))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, error in (("link", OSError), ("pipe", ValueError), ("folder", ValueError), ("none", FileNotFoundError)):
        with pytest.raises(error):
            read_flow(tmp_path / name)


def test_a_shipper_that_starts_anew_is_as_late_as_the_one_before_left_it(tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    write_flow(path, Flow(server="main", at=NOW, late_seconds=500))
    assert Monitor("main", tmp_path, flow_file=path).late_seconds() >= 500
    assert Monitor("other", tmp_path, flow_file=path).late_seconds() < 100


def test_the_record_is_late_from_the_first_line_that_is_not_stored(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("line\n")
    directory = LogDirectory(tmp_path)
    monitor = Monitor("main", tmp_path)
    monitor.connected(directory, rolled_back=None)
    monitor.look(directory)
    assert monitor.unread_bytes() == 5
    complete = monitor.flow().complete_until
    monitor.look(directory)
    assert monitor.flow().complete_until == complete
    batch = directory.read()
    assert batch is not None
    directory.stored(batch)
    monitor.look(directory)
    assert monitor.unread_bytes() == 0
    assert monitor.flow().complete_until != complete


def test_problems_are_told_by_source_and_bounded(tmp_path: Path) -> None:
    monitor = Monitor("main", tmp_path)
    monitor.tell("directory", *[Problem(Reason.LOG_MISCONFIGURED, "x" * 10_000)] * 20)
    assert len(monitor.flow().problems) == MOST_PROBLEMS
    assert len(monitor.flow().model_dump_json()) < 10_000
    monitor.failed("connection refused")
    monitor.tell("directory")
    assert [problem.reason for problem in monitor.flow().problems] == [Reason.AUDIT_STORE_UNREACHABLE]
    monitor.connected(LogDirectory(tmp_path), rolled_back=None)
    assert monitor.flow().problems == ()


def test_an_anchor_file_grows_by_whole_lines_whatever_a_crash_left(tmp_path: Path) -> None:
    path = tmp_path / "anchors"
    file = AnchorFile(path, "main")
    assert file.last() is None
    file.append(HEAD)
    path.write_text(path.read_text() + '{"server": "main", "batch": 8, "he')
    assert file.last() == HEAD
    newer = HEAD.model_copy(update={"batch": 9})
    file.append(newer)
    AnchorFile(path, "other").append(HEAD.model_copy(update={"batch": 99}))
    assert file.last() == newer
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["server"], line["batch"], line["head"]) for line in lines] == [
        ("main", 7, "a" * 64), ("main", 9, "a" * 64), ("other", 99, "a" * 64),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "fills", "kept"), [(3600, False, 3600), (3600, True, 60), (5, True, 5), (None, True, None)]
)
def test_stored_files_go_sooner_while_the_disk_fills(keep: float | None, fills: bool, kept: float | None) -> None:
    assert seconds_kept(keep, disk_fills=fills) == kept


def test_what_lay_there_before_the_agent_started_is_no_sign_of_life(tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    # A clock that was set back makes an old file look new.
    write_flow(path, Flow(server="main", at=NOW))
    guard = AuditGuard(path)
    guard.resume(AgentState("main"), NOW)
    asyncio.run(guard.check(None))
    assert guard.status_entry is None, "not known yet"
    write_flow(path, Flow(server="main", at=NOW, gaps=1))
    asyncio.run(guard.check(None))
    assert guard.status_entry is not None
    assert guard.status_entry.flowing


def test_a_message_with_a_figure_that_changes_is_not_told_each_time(tmp_path: Path) -> None:
    path, entries = tmp_path / "flow.json", []
    guard = AuditGuard(path)
    guard.resume(AgentState("main"), NOW)
    for percent in (19, 18):
        problem = Problem(Reason.LOG_DISK_FILLING, f"{percent} % free")
        write_flow(path, Flow(server="main", at=NOW, problems=(problem,)))
        asyncio.run(guard.check(None))
        entries.append(guard.status_entry)
    assert entries[0] == entries[1]
    write_flow(path, Flow(server="main", at=NOW))
    asyncio.run(guard.check(None))
    assert guard.status_entry is not None
    assert guard.status_entry.flowing


def test_the_agent_closes_at_the_floor_whatever_the_shipper_says_and_tells_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, room = tmp_path / "flow.json", [LogRoom(50, 100)]
    monkeypatch.setattr(LogDisk, "room", lambda _: room[0])
    state = AgentState("main", audit_grace=10 * MINUTE)
    guard = AuditGuard(path, LogDisk(tmp_path, LogFloor(20, 1)))
    guard.resume(state, NOW)
    seen = []
    for number, free in enumerate((50, 20, 19, 24, 25, 25)):
        room[0] = LogRoom(free, 100)
        write_flow(path, Flow(server="main", at=NOW, gaps=number))
        asyncio.run(guard.check(state.audit_grace))
        assert guard.status_entry is not None
        assert guard.status_entry.closed == guard.closes_access
        seen.append((guard.closes_access, guard.status_entry.reason, bool(guard.take_warning())))
    assert seen == [
        (False, "Flowing", False), (False, "Flowing", False), (True, "LogDiskFull", True),
        (True, "LogDiskFull", False), (False, "Flowing", False), (False, "Flowing", False),
    ]  # fmt: skip


def test_a_server_that_does_not_ask_for_the_record_is_told_of_the_floor_and_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LogDisk, "room", lambda _: LogRoom(1, 100))
    guard = AuditGuard(tmp_path / "flow.json", LogDisk(tmp_path, LogFloor(20, 1)))
    guard.resume(AgentState("main"), NOW)
    asyncio.run(guard.check(None))
    assert not guard.closes_access
    assert guard.status_entry is not None
    assert (guard.status_entry.reason, guard.status_entry.flowing) == ("LogDiskFull", False)
    assert "closed" not in guard.take_warning()


def test_after_a_restart_it_takes_as_much_room_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flow.json"
    monkeypatch.setattr(LogDisk, "room", lambda _: LogRoom(24, 100))
    state = AgentState("main", audit_grace=10 * MINUTE, audit=AuditSeen(complete_until=NOW, held=True))
    guard = AuditGuard(path, LogDisk(tmp_path, LogFloor(20, 1)))
    guard.resume(state, NOW)
    write_flow(path, Flow(server="main", at=NOW, gaps=1))
    asyncio.run(guard.check(state.audit_grace))
    assert guard.closes_access


def test_a_log_whose_disk_cannot_be_measured_closes(tmp_path: Path) -> None:
    guard = AuditGuard(tmp_path / "flow.json", LogDisk(tmp_path / "missing", LogFloor(20, 1)))
    guard.resume(AgentState("main"), NOW)
    asyncio.run(guard.check(10 * MINUTE))
    assert guard.closes_access
    assert "missing" in guard.message(10 * MINUTE)


def test_an_agent_without_the_file_tells_nothing_of_the_record(tmp_path: Path) -> None:
    assert AuditGuard(None).status_entry is None


def test_neither_a_restart_nor_a_clock_that_is_set_back_opens_what_was_closed(tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    write_flow(path, Flow(server="main", at=NOW))
    state = AgentState("main", audit_grace=10 * MINUTE, audit=AuditSeen(complete_until=NOW, held=True))
    guard = AuditGuard(path)
    guard.resume(state, NOW - HOUR)
    asyncio.run(guard.check(state.audit_grace))
    assert guard.closes_access
    assert guard.change(state, NOW - HOUR) is None
    write_flow(path, Flow(server="main", at=NOW, gaps=1))
    asyncio.run(guard.check(state.audit_grace))
    assert not guard.closes_access
    assert guard.change(state, NOW) == AuditSeen()


def test_a_restart_does_not_begin_the_grace_time_anew(tmp_path: Path) -> None:
    state = AgentState("main", audit_grace=10 * MINUTE, audit=AuditSeen(complete_until=NOW))
    guard = AuditGuard(tmp_path / "flow.json")
    guard.resume(state, NOW + 9 * MINUTE)
    asyncio.run(guard.check(state.audit_grace))
    assert not guard.closes_access
    guard.resume(state, NOW + 11 * MINUTE)
    asyncio.run(guard.check(state.audit_grace))
    assert guard.closes_access
    assert guard.change(state, NOW + 11 * MINUTE) == AuditSeen(complete_until=NOW, held=True)


def test_the_last_word_of_a_shipper_counts_where_the_agent_was_away_too(tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    write_flow(path, Flow(server="main", at=NOW, late_seconds=30))
    guard = AuditGuard(path)
    guard.resume(AgentState("main"), NOW + 10 * MINUTE)
    asyncio.run(guard.check(10 * MINUTE))
    assert guard.closes_access


def test_a_port_that_is_taken_is_told_and_stops_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monitor = Monitor("main", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(port, monitor, "127.0.0.1"):
            assert "no metrics" in capsys.readouterr().out
    with serving(port, monitor, "127.0.0.1"), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert b"vaultbrix_audit_late_seconds" in answer.read()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))
