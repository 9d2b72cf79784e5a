"""Log files that are damaged, deleted or overwritten: what is lost is told, what is not is stored once."""

import itertools
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.harness.audit_store import Store
from tests.harness.database import directory
from tests.harness.shell import wait_for
from tests.harness.written_log import Log, line


@pytest.fixture
def log(store: Store, request: pytest.FixtureRequest) -> Iterator[Log]:
    with directory() as path:
        log = Log(path / "log", store, request.node.name)
        log.shipper.start()
        try:
            yield log
        finally:
            log.shipper.stop()
        assert "Traceback" not in log.shipper.text()


def audit(statement: str) -> bytes:
    """A line of pgAudit's with the payload as given."""
    return line(f"AUDIT: {statement}", func_name="log_audit_event")


def test_a_file_deleted_before_it_was_read_is_a_gap(log: Log) -> None:
    log.write("1", line("a"))
    log.await_messages("a")
    log.shipper.kill()
    log.write("1", line("unread"))
    (log.path / "1.json").unlink()
    log.write("2", line("b"))
    log.shipper.start()
    log.await_messages("a", "b")
    assert log.gaps() == [("1.json", len(line("a")), "the file was deleted before it was read to its end")]


def test_a_log_that_was_copied_to_another_filesystem_is_read_on_as_if_it_had_not_been(log: Log, store: Store) -> None:
    for name in ("1", "2"):
        log.write(name, line(name))
    log.await_messages("1", "2")
    log.shipper.kill()
    log.write("2", line("unread"))
    copy(log, "1.json")
    copy(log, "2.json")
    log.shipper.start()
    log.await_messages("1", "2", "unread")
    # Twice, so that what is stored of the copies is what the next one goes on from.
    log.shipper.kill()
    log.write("3", line("3"))
    log.shipper.start()
    log.await_messages("1", "2", "unread", "3")
    assert log.gaps() == []
    inodes = dict(store.query("SELECT file, inode FROM audit.logfile WHERE server = %s", [log.server]))
    assert inodes == {name: (log.path / name).stat().st_ino for name in ("1.json", "2.json", "3.json")}


def copy(log: Log, name: str) -> None:
    """As the chart's initialise and docs/vm.md do."""
    path = log.path / name
    with (log.path / ".moved").open("a") as moved:
        moved.write(f"{path.stat().st_ino} {name}\n")
    copied = path.with_suffix(".new")
    copied.write_bytes(path.read_bytes())
    copied.rename(path)


def test_a_file_that_no_shipper_ever_saw_leaves_a_gap_in_the_numbers_of_its_sessions(log: Log) -> None:
    log.write("1", line("a", 1) + line("b", 2))
    log.await_messages("a", "b")
    log.shipper.stop()
    log.write("2", line("unread", 3) + line("unread", 4))
    log.write("3", line("c", 5) + line("d", 7))
    (log.path / "2.json").unlink()
    log.shipper.start()
    log.await_messages("a", "b", "c", "d")
    wait_for("both gaps are told", lambda: len(log.gaps()) == 2, tell=log.shipper.text)
    log.shipper.kill()
    log.shipper.start()
    log.write("3", line("e", 8))
    log.await_messages("a", "b", "c", "d", "e")
    assert sorted(log.gaps()) == [
        ("3.json", 0, "lines 3 to 4 of session 6b0.000000 never came"),
        ("3.json", len(line("c", 5)), "line 6 of session 6b0.000000 never came"),
    ]
    found = "SELECT session_id, first_line, last_line FROM audit.hole WHERE server = %s ORDER BY first_line"
    assert log.store.query(found, [log.server]) == [("6b0.000000", 3, 4), ("6b0.000000", 6, 6)]
    assert log.store.query("SELECT * FROM audit.missing WHERE server = %s", [log.server]) == []


def test_lines_that_are_only_read_later_are_no_gap(log: Log) -> None:
    """The clock was set back: the file with the later lines has the older name."""
    log.shipper.stop()
    log.write("1", b"".join(line(f"late {number}", number) for number in range(1001, 2001)))
    log.write("2", b"".join(line(f"early {number}", number) for number in range(1, 1001)))
    log.shipper.start()
    wait_for("all is stored", lambda: len(log.messages()) == 2000, tell=log.shipper.text)
    log.write("1", line("z", 2001))
    wait_for("what follows is stored", lambda: "z" in log.messages(), tell=log.shipper.text)
    assert log.store.query("SELECT * FROM audit.missing WHERE server = %s", [log.server]) == []
    assert log.gaps() == []


def test_lines_that_come_when_their_absence_would_be_told_are_stored(log: Log) -> None:
    for number in range(1, 6):
        first, early, late = session(number, "a", "b", "c").splitlines(keepends=True)
        log.write("1", first + late)
        wait_for("the later line is stored", lambda n=number: log.messages().count("c") == n, tell=log.shipper.text)
        log.write("2", early)
        wait_for("the earlier line is stored", lambda n=number: log.messages().count("b") == n, tell=log.shipper.text)


def test_a_line_that_the_store_refuses_is_kept_aside_and_stops_nothing(log: Log) -> None:
    refused = (17, 1500)
    log.store.query("ALTER TABLE audit.record ADD CONSTRAINT poison CHECK (message <> 'poison')")
    try:
        lines = [line("poison" if number in refused else f"{number:04}", number) for number in range(1, 2001)]
        log.write("1", b"".join(lines))
        wait_for("the others are stored", lambda: len(log.messages()) == 1998, tell=log.shipper.text)
    finally:
        log.store.query("ALTER TABLE audit.record DROP CONSTRAINT poison")
    places = [sum(map(len, lines[: number - 1])) for number in refused]
    assert log.quarantine() == [
        ("1.json", place, line("poison", 17 if not n else 1500)[:-1]) for n, place in enumerate(places)
    ]
    found = "SELECT DISTINCT reason FROM audit.quarantine WHERE server = %s"
    assert log.store.query(found, [log.server]) == [("the store refuses it: SQLSTATE 23514",)]
    assert log.gaps() == []


def test_an_unexpected_error_is_told_and_loses_nothing(store: Store) -> None:
    function = "audit.last_lines(text, text[], bigint[])"
    ((right,),) = store.query("SELECT pg_get_functiondef(%s::regprocedure)", [function])
    # An answer that nothing in the shipper expects.
    wrong, cut, _ = right.partition("AS $function$")
    store.query(f"{wrong}{cut} SELECT unnest(p_sessions), NULL::bigint $function$")
    with directory() as path:
        log = Log(path / "log", store, "unexpected")
        log.shipper.start()
        try:
            log.write("1", line("a", 5))
            wait_for("it is told", lambda: "unexpected error" in log.shipper.text())
            assert log.shipper.running and log.messages() == []
            store.query(right)
            log.await_messages("a")
        finally:
            store.query(right)
            log.shipper.stop()


def test_a_log_directory_that_is_not_there_is_told_and_read_once_it_is(log: Log) -> None:
    log.write("1", line("a"))
    log.await_messages("a")
    log.path.rename(log.path.with_name("away"))
    wait_for("it is told", lambda: "mount PostgreSQL's log_directory" in log.shipper.text())
    log.path.with_name("away").rename(log.path)
    log.write("1", line("b", 2))
    log.await_messages("a", "b")
    assert log.gaps() == []


def test_files_that_are_stored_are_removed_and_no_other(store: Store) -> None:
    with directory() as path:
        log = Log(path / "log", store, "removal", "--keep-stored=1s")
        torn = line("torn", 2)[:-9]
        log.write("1", line("a"))
        log.write("2", line("b") + torn)
        log.shipper.start()
        try:
            for number in itertools.count():
                log.write("3", line(f"{number:03}", number + 1, session_id="6b0.3"))
                time.sleep(0.2)
                if not any((log.path / f"{name}.json").exists() for name in (1, 2)):
                    break
                assert number < 300, log.shipper.text()
            log.write("3", line("end", number + 2, session_id="6b0.3"))
            wait_for("the end is stored", lambda: "end" in log.messages(), tell=log.shipper.text)
        finally:
            log.shipper.stop()
        assert log.messages() == ["a", "b", *(f"{known:03}" for known in range(number + 1)), "end"]
        assert log.quarantine() == [("2.json", len(line("b")), torn)]
        assert log.gaps() == []
        assert [found.name for found in sorted(log.path.iterdir())] == ["3.json"]


def test_a_file_overwritten_is_a_gap_and_what_it_holds_now_is_stored(log: Log) -> None:
    log.write("1", line("a"))
    log.await_messages("a")
    # Same name, same inode, same size.
    (log.path / "1.json").write_bytes(line("z"))
    wait_for("both are stored", lambda: sorted(log.messages()) == ["a", "z"], tell=log.shipper.text)
    assert log.gaps() == [("1.json", len(line("a")), "the file was overwritten")]


def test_a_file_truncated_is_a_gap(log: Log) -> None:
    log.write("1", line("a") + line("b"))
    log.await_messages("a", "b")
    os.truncate(log.path / "1.json", 0)
    wait_for("the gap is told", log.gaps, tell=log.shipper.text)
    log.write("1", line("c"))
    wait_for("what came later is stored", lambda: "c" in log.messages(), tell=log.shipper.text)


def test_garbage_is_kept_aside_as_it_was_and_stops_nothing(log: Log) -> None:
    garbage = [
        b"no json\n",
        b"\n",
        b'{"timestamp":"2026-12-01 18:00:00.123 UTC","message":"\xff\xfe"}\n',
        b'{"timestamp":"2026-12-01 18:00:00.123 CET","message":"zone"}\n',
        b'{"timestamp":"2026-13-01 18:00:00.123 UTC","message":"month"}\n',
        b'{"timestamp":"2026-12-01 18:00:00.123 UTC","message":7}\n',
        b"[]\n",
        audit("SESSION,1,1,READ"),
        audit('SESSION,1,1,READ,SELECT,,,"torn'),
        audit("SESSION,one,1,READ,SELECT,,,SELECT 1,<none>"),
    ]
    log.write("1", line("a") + b"".join(garbage) + line("b", 2))
    log.await_messages("a", "b")
    positions = [len(line("a")) + sum(map(len, garbage[:n])) for n in range(len(garbage))]
    wanted = [("1.json", at, text[:-1]) for at, text in zip(positions, garbage, strict=True)]
    assert log.quarantine() == wanted
    assert log.gaps() == []


def test_a_line_that_the_writer_never_finished_is_kept_aside(log: Log) -> None:
    torn = line("b")[:-20]
    log.write("1", line("a") + torn)
    log.await_messages("a")
    assert log.quarantine() == []
    log.write("2", line("c"))
    log.await_messages("a", "c")
    wait_for("the writer has left the first file", log.quarantine, tell=log.shipper.text)
    assert log.quarantine() == [("1.json", len(line("a")), torn)]


def test_a_line_written_in_two_parts_is_one_line(log: Log) -> None:
    text = line("x" * 100_000)
    log.write("1", text[:50_000])
    log.write("1", text[50_000:] + line("b", 2))
    log.await_messages("x" * 100_000, "b")
    assert log.quarantine() == []


def test_a_line_longer_than_a_batch_is_stored_whole(log: Log) -> None:
    long = "é" * 10_000_000
    log.write("1", line("a") + line(long) + line("b"))
    log.await_messages("a", long, "b")


def test_files_are_read_in_their_order_and_to_their_end(log: Log) -> None:
    log.shipper.stop()
    for number in range(1, 8):
        log.write(str(number), b"".join(line(f"{number}.{part}") for part in range(3)))
    log.shipper.start()
    log.await_messages(*(f"{number}.{part}" for number in range(1, 8) for part in range(3)))
    assert log.gaps() == log.quarantine() == []


def test_a_name_and_an_application_of_any_characters_are_kept(log: Log) -> None:
    strange = 'a"\\\n\t\x1b[31m; DROP \u2028 \U0001f512'
    log.write("1", line("a", user=strange, application_name=strange, remote_host="fe80::1%eth0"))
    log.await_messages("a")
    found = log.store.query("SELECT role, application, host(address) FROM audit.record WHERE server = %s", [log.server])
    assert found == [(strange, strange, "fe80::1")]


def session(number: int, *messages: str) -> bytes:
    """Lines of a session that began before any shipper of the tests."""
    began = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
    lines = (line(text, n, session_id=f"{began:x}.{number}") for n, text in enumerate(messages, 1))
    return b"".join(lines)


@pytest.mark.parametrize("restarted", [False, True])
def test_lines_that_come_again_are_stored_once(log: Log, restarted: bool) -> None:
    log.write("1", session(1, "a", "b", "c"))
    log.await_messages("a", "b", "c")
    if restarted:
        log.shipper.kill()
    # Put back as it was before c, written anew with another b; and a copy.
    path = log.path / "1.json"
    path.with_suffix(".new").write_bytes(session(1, "a", "B"))
    path.with_suffix(".new").rename(path)
    log.write("0", session(1, "a", "b", "c", "d"))
    if restarted:
        log.shipper.start()
    wait_for("d is stored", lambda: "d" in log.messages(), tell=log.shipper.text)
    wait_for("the other b is kept aside", log.quarantine, tell=log.shipper.text)
    assert sorted(log.messages()) == ["a", "b", "c", "d"]
    ((_, _, text),) = log.quarantine()
    assert b'"B"' in text
    assert log.gaps() == [("1.json", len(session(1, "a", "b", "c")), "the file was overwritten")]


@pytest.mark.parametrize("erased", [False, True])
def test_what_is_in_quarantine_is_not_put_there_again(log: Log, erased: bool) -> None:
    garbage = b"no json\n"
    huge = b'{"x":"' + b"x" * (1024 * 1024) + b"\n"
    log.write("1", session(1, "a") + garbage + huge + session(2, "b"))
    log.await_messages("a", "b")
    before = log.quarantine()
    assert [text[:7] for _, _, text in before] == [garbage[:-1], huge[:7]]
    (told,) = log.gaps()
    if erased:
        log.store.query("UPDATE audit.quarantine SET line = '', redaction = 0 WHERE server = %s", [log.server])
    # Cut, and written on: it is read from its beginning, where other garbage is new.
    os.truncate(log.path / "1.json", len(session(1, "a") + garbage + huge))
    wait_for("the cut is told", lambda: len(log.gaps()) > 1, tell=log.shipper.text)
    log.write("1", garbage + session(3, "c"))
    wait_for("what came later is stored", lambda: "c" in log.messages(), tell=log.shipper.text)
    place = len(session(1, "a") + garbage + huge)
    was = [(file, at, b"" if erased else text) for file, at, text in before]
    assert log.quarantine() == [*was, ("1.json", place, garbage[:-1])]
    assert [gap for gap in log.gaps() if gap == told] == [told]
    silent = [at for _, at, _ in before] if erased else []
    assert [at for _, at, reason in log.gaps() if "where one was erased" in reason] == silent


def test_a_file_that_is_cut_goes_on_without_repeating_what_it_kept(log: Log) -> None:
    log.write("1", session(1, "a", "b", "c"))
    log.await_messages("a", "b", "c")
    os.truncate(log.path / "1.json", len(session(1, "a")))
    wait_for("the gap is told", log.gaps, tell=log.shipper.text)
    log.write("1", session(2, "x"))
    wait_for("what came later is stored", lambda: "x" in log.messages(), tell=log.shipper.text)
    assert sorted(log.messages()) == ["a", "b", "c", "x"]
