"""Whoever owns the store can change it, but not unseen: each way of tampering, and the batch that is named for it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import pytest
from tests.harness.audit_store import Store
from tests.harness.processes import VAULTBRIX
from tests.harness.sealed_store import HOSTILE, Sealing, check, days, record, verifier, write

from vaultbrix.audit.evidence.findings import Anchor, Fault
from vaultbrix.audit.seal import new_key
from vaultbrix.audit.shipping.followed import Gap
from vaultbrix.audit.shipping.sealing import Quarantined

BATCHES = 6


@pytest.fixture
def sealed(store: Store) -> Store:
    """Six batches of server main, and one of another; over two days and two times of keeping."""
    for table in ("record", "gap", "quarantine", "batch", "part", "event", "logfile", "checkpoint"):
        store.query(f"TRUNCATE audit.{table}")  # type: ignore[arg-type]
    main = Sealing(store, "main")
    for number in range(BATCHES):
        first, second = days(2)
        main.batch(
            [
                *(record("main", number * 10 + at, at=first) for at in range(1, 6)),
                record("main", number * 10 + 6, at=second, keep=30),
                record("main", number * 10 + 7, statement=HOSTILE, application=HOSTILE, address="::ffff:1.2.3.4"),
                record("main", number * 10 + 8, kind="duration", statement=None, duration_ms=0.1 + number),
                record("main", number * 10 + 9, at=second, approver="pat@example.com"),
            ],
            gaps=[Gap("1.json", number, f"gap {number}")],
            quarantined=[Quarantined("1.json", number, b"\xff\\\0\n", HOSTILE)],
        )
    Sealing(store, "other").batch([record("other", 1)])
    return store


def faults(found: list[object]) -> set[Fault]:
    return {finding.fault for finding in found}  # type: ignore[attr-defined]


def test_an_untouched_store_holds(sealed: Store) -> None:
    found = check(sealed)
    assert found.findings == []
    assert (found.batches, found.rows, found.unsealed) == (7, 6 * 11 + 1, 0)


ROW = "server = 'main' AND batch = 3 AND line_num = 23"
TAMPERING: dict[str, tuple[str, int, set[Fault]]] = {
    "a byte of a statement": (
        f"UPDATE audit.record SET statement = 'SELECT 24' WHERE {ROW}",
        3,
        {Fault.ROW_CHANGED},
    ),
    "who it was": (f"UPDATE audit.record SET person = 'bob@example.com' WHERE {ROW}", 3, {Fault.ROW_CHANGED}),
    "an approver who was none": (
        f"UPDATE audit.record SET approver = 'pat@example.com' WHERE {ROW}",
        3,
        {Fault.ROW_CHANGED},
    ),
    "another approver": ("UPDATE audit.record SET approver = 'eve' WHERE line_num = 29", 3, {Fault.ROW_CHANGED}),
    "an approver hidden": ("UPDATE audit.record SET approver = '' WHERE line_num = 29", 3, {Fault.ROW_CHANGED}),
    "an approver in the field before": (
        "UPDATE audit.record SET approver = '', file = file || E'\\t' || approver WHERE line_num = 29",
        3,
        {Fault.ROW_CHANGED},
    ),
    "a field emptied": (f"UPDATE audit.record SET sqlstate = '' WHERE {ROW}", 3, {Fault.ROW_CHANGED}),
    "a time, by a microsecond": (
        f"UPDATE audit.record SET at = at + interval '1 microsecond' WHERE {ROW}",
        3,
        {Fault.ROW_CHANGED},
    ),
    "a row moved to another day": (
        f"UPDATE audit.record SET at = at + interval '1 day' WHERE {ROW}",
        3,
        {Fault.ROW_ADDED, Fault.ROW_MISSING},
    ),
    "a row with a leaf of its own": (
        f"UPDATE audit.record SET statement = 'x', leaf = sha256('x') WHERE {ROW}",
        3,
        {Fault.ROW_CHANGED},
    ),
    "a duration": ("UPDATE audit.record SET duration_ms = 9 WHERE line_num = 28", 3, {Fault.ROW_CHANGED}),
    "a row removed": (f"DELETE FROM audit.record WHERE {ROW}", 3, {Fault.ROW_MISSING}),
    "two rows exchanged": (
        "UPDATE audit.record SET leaf_index = 3 - leaf_index WHERE batch = 3 AND leaf_index IN (1, 2) AND keep = 400",
        3,
        {Fault.ROW_CHANGED},
    ),
    "a row put in": (
        f"INSERT INTO audit.record SELECT (r).* FROM (SELECT r FROM audit.record r WHERE {ROW}) x",
        3,
        {Fault.ROW_ADDED},
    ),
    "a row without a seal": (
        "INSERT INTO audit.record(server, at, session_id, line_num, kind, tag, file, position)"
        " VALUES ('main', '2026-12-01 13:00Z', 's', 1, 'statement', 'SELECT', '', 0)",
        0,
        {Fault.ROW_ADDED},
    ),
    "content erased without an event": (
        f"UPDATE audit.record SET statement = NULL, salt = NULL WHERE {ROW}",
        3,
        {Fault.ERASED_WITHOUT_EVENT},
    ),
    "a day dropped without an event": ("DELETE FROM audit.record WHERE keep = 30", 1, {Fault.ROW_MISSING}),
    "a gap hidden": ("DELETE FROM audit.gap WHERE position = 2", 3, {Fault.ROW_MISSING}),
    "a line in quarantine changed": (
        "UPDATE audit.quarantine SET line = '' WHERE position = 4",
        5,
        {Fault.ROW_CHANGED},
    ),
    "a batch removed": (
        "DELETE FROM audit.record WHERE batch = 4; DELETE FROM audit.gap WHERE batch = 4;"
        "DELETE FROM audit.quarantine WHERE batch = 4;"
        "DELETE FROM audit.part WHERE batch = 4; DELETE FROM audit.batch WHERE batch = 4",
        4,
        {Fault.BATCH_MISSING},
    ),
    "the first batch removed": (
        "DELETE FROM audit.record WHERE batch = 1; DELETE FROM audit.gap WHERE batch = 1;"
        "DELETE FROM audit.quarantine WHERE batch = 1;"
        "DELETE FROM audit.part WHERE batch = 1 AND server = 'main';"
        "DELETE FROM audit.batch WHERE batch = 1 AND server = 'main'",
        1,
        {Fault.BATCH_MISSING},
    ),
    "two batches exchanged": (
        "UPDATE audit.record SET batch = 7 - batch WHERE batch IN (3, 4);"
        "UPDATE audit.gap SET batch = 7 - batch WHERE batch IN (3, 4);"
        "UPDATE audit.quarantine SET batch = 7 - batch WHERE batch IN (3, 4);"
        "UPDATE audit.part SET batch = -batch WHERE batch IN (3, 4);"
        "UPDATE audit.part SET batch = 7 + batch WHERE batch < 0;"
        "UPDATE audit.batch SET batch = -batch WHERE batch IN (3, 4);"
        "UPDATE audit.batch SET batch = 7 + batch WHERE batch < 0",
        3,
        {Fault.SIGNATURE_INVALID, Fault.CHAIN_BROKEN},
    ),
    "a root": ("UPDATE audit.batch SET root = sha256('x') WHERE batch = 3", 3, {Fault.SIGNATURE_INVALID}),
    "a part's root": (
        "UPDATE audit.part SET root = sha256('x') WHERE batch = 3 AND part = 'gap'",
        3,
        {Fault.PARTS_CHANGED},
    ),
    "a part removed with its rows": (
        "DELETE FROM audit.gap WHERE batch = 3; DELETE FROM audit.part WHERE batch = 3 AND part = 'gap'",
        3,
        {Fault.PARTS_CHANGED},
    ),
    "when it was sealed": (
        "UPDATE audit.batch SET sealed_at = sealed_at - interval '1 day' WHERE batch = 3",
        3,
        {Fault.SIGNATURE_INVALID},
    ),
    "where it was read": ("UPDATE audit.batch SET stop = stop + 1 WHERE batch = 3", 3, {Fault.SIGNATURE_INVALID}),
    "a signature": (
        "UPDATE audit.batch SET signature = set_byte(signature, 5, get_byte(signature, 5) # 1) WHERE batch = 3",
        3,
        {Fault.SIGNATURE_INVALID},
    ),
    "another server's batch": (
        "UPDATE audit.batch SET server = 'main', batch = 7 WHERE server = 'other'",
        7,
        {Fault.CHAIN_BROKEN},
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found_and_the_first_bad_batch_named(sealed: Store, name: str) -> None:
    statement, batch, wanted = TAMPERING[name]
    for part in statement.split(";"):
        sealed.query(part)  # type: ignore[arg-type]
    found = check(sealed)
    assert found.first is not None
    assert (found.first.server, found.first.batch) == ("main", batch), found.findings
    assert wanted <= faults(found.findings), found.findings  # type: ignore[arg-type]


def forge(sealed: Store, *, key: str) -> None:
    """Batch 6 made anew without one of its rows, with all that an owner of the store can do, signed with a key."""
    for table in ("record", "gap", "quarantine", "part", "batch"):
        sealed.query(f"DELETE FROM audit.{table} WHERE server = 'main' AND batch = 6")  # type: ignore[arg-type]
    sealed.query("UPDATE audit.checkpoint SET batch = 5 WHERE server = 'main'")
    Sealing(sealed, "main", key).batch([record("main", 51)])


def test_a_batch_signed_with_another_key_is_found(sealed: Store) -> None:
    forge(sealed, key=new_key()[0])
    found = check(sealed)
    assert found.first is not None
    assert (found.first.batch, found.first.fault) == (6, Fault.UNKNOWN_KEY)


def test_a_record_made_anew_with_the_shippers_own_key_is_found_by_an_anchor(sealed: Store) -> None:
    anchor = check(sealed).last["main"]
    forge(sealed, key=sealed.signing_key)
    assert check(sealed).findings == []
    found = check(sealed, anchor)
    assert found.first is not None
    assert (found.first.batch, found.first.fault) == (6, Fault.ANCHOR_DIFFERS)


@pytest.mark.parametrize("left", [5, 0])
def test_a_truncated_tail_is_found_by_an_anchor(sealed: Store, left: int) -> None:
    anchor = check(sealed).last["main"]
    for table in ("record", "gap", "quarantine", "part", "batch"):
        sealed.query(f"DELETE FROM audit.{table} WHERE server = 'main' AND batch > {left}")  # type: ignore[arg-type]
    assert check(sealed).findings == []
    found = check(sealed, anchor)
    assert found.first is not None
    assert (found.first.batch, found.first.fault) == (left + 1, Fault.TRUNCATED)


def test_an_older_anchor_holds_while_the_store_grows(sealed: Store) -> None:
    anchor = check(sealed).last["main"]
    Sealing(sealed, "main").batch([record("main", 99)])
    assert check(sealed, anchor).findings == []
    wrong = Anchor("main", anchor.batch, bytes(32))
    assert [finding.fault for finding in check(sealed, wrong).findings] == [Fault.ANCHOR_DIFFERS]


def test_one_day_is_checked_alone(sealed: Store) -> None:
    sealed.query("UPDATE audit.record SET statement = 'x' WHERE keep = 30 AND batch = 2")
    first, second = days(2)
    assert verifier(sealed).day(first.date()).findings == []
    found = verifier(sealed).day(second.date())
    assert [(finding.batch, finding.fault) for finding in found.findings] == [(2, Fault.ROW_CHANGED)]


def run(store: Store, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    reader = store.reader
    environment = {
        "PGHOST": reader["host"],
        "PGPORT": reader["port"],
        "PGUSER": reader["username"],
        "PGPASSWORD": reader["password"],
        "PGSSLMODE": "require",
        "PYTHONPATH": "operator",
    }
    command = [*VAULTBRIX, "audit", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def keys(store: Store, tmp_path: Path) -> Path:
    return write(tmp_path / "signing.pub", store.public_key)


def test_the_command_tells_an_auditor(sealed: Store, keys: Path, tmp_path: Path) -> None:
    anchors = run(sealed, "anchor")
    assert [json.loads(line)["batch"] for line in anchors.stdout.splitlines()] == [6, 1]
    kept = write(tmp_path / "anchors", anchors.stdout)
    fine = run(sealed, "verify", "--keys", keys, "--anchor", kept)
    assert (fine.returncode, fine.stdout.splitlines()[-1]) == (0, "all seals hold"), fine
    sealed.query(f"DELETE FROM audit.record WHERE {ROW}")  # type: ignore[arg-type]
    bad = run(sealed, "verify", "--keys", keys)
    assert (bad.returncode, bad.stdout.splitlines()[-1]) == (1, "first bad batch: 3 of server main"), bad
    assert run(sealed, "verify", "--keys", keys, "--day", f"{days(2)[1]:%Y-%m-%d}").returncode == 0
    assert sealed.query("SELECT kind, actor FROM audit.event ORDER BY id") == [("verified", "auditor")] * 3


def test_anchors_are_kept_as_files_of_their_own(sealed: Store, keys: Path, tmp_path: Path) -> None:
    place = tmp_path / "anchors"
    assert run(sealed, "anchor", "--to", place).returncode == 0
    Sealing(sealed, "main").batch([record("main", 99)])
    assert run(sealed, "anchor", "--to", place).returncode == 0
    assert len(list(place.iterdir())) == 3
    assert run(sealed, "verify", "--keys", keys, "--anchor", place).returncode == 0
    forge(sealed, key=sealed.signing_key)
    bad = run(sealed, "verify", "--keys", keys, "--anchor", place)
    assert (bad.returncode, "AnchorDiffers" in bad.stdout) == (1, True), bad


@pytest.mark.parametrize("number", [21, 26, 27])
def test_a_record_is_proved_without_the_store(sealed: Store, keys: Path, tmp_path: Path, number: int) -> None:
    made = run(sealed, "proof", "--server=main", "--session=s1", f"--line={number}")
    proof = write(tmp_path / "proof.json", made.stdout)
    good = run(sealed, "verify", "--keys", keys, "--proof", proof)
    assert good.returncode == 0, good
    assert good.stdout.startswith("proved: row ")
    whole = json.loads(made.stdout)
    changed = bytes.fromhex(whole["line"]).replace(b"tenant_acme", b"tenant_evil").hex()
    for field, value in (
        ("line", changed),
        ("index", whole["index"] + 1),
        ("path", [*whole["path"], "00" * 32]),
        ("signature", "00" * 64),
        ("header", whole["header"].replace("batch 3", "batch 4")),
        ("parts", whole["parts"][:-1]),
    ):
        proof.write_text(json.dumps({**whole, field: value}))
        bad = run(sealed, "verify", "--keys", keys, "--proof", proof)
        assert (bad.returncode, bad.stdout[:10]) == (1, "NOT PROVED"), (field, bad)


BAD_CALLS: dict[str, Callable[[Path], list[str | Path]]] = {
    "--day: '2026-13-01' is no date": lambda keys: ["verify", "--keys", keys, "--day", "2026-13-01"],
    "--keys: [Errno 2]": lambda keys: ["verify", "--keys", keys.with_name("none")],
    "--keys: no public key in PEM found": lambda keys: ["verify", "--keys", write(keys.with_name("bad"), "x")],
    "--anchor: ": lambda keys: ["verify", "--keys", keys, "--anchor", write(keys.with_name("a"), '{"server": 1}')],
    "--proof: stands alone": lambda keys: ["verify", "--keys", keys, "--proof", keys, "--day", "2026-12-01"],
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_a_bad_call_names_the_option_and_the_remedy(sealed: Store, keys: Path, message: str) -> None:
    found = run(sealed, *BAD_CALLS[message](keys))
    assert found.returncode == 2, found
    assert f"error: {message}" in found.stderr


def test_a_store_that_is_all_wrong_is_told_in_bounded_memory(sealed: Store) -> None:
    sealed.query("UPDATE audit.record SET batch = batch + 100")
    found = check(sealed)
    assert found.wrong >= found.rows
    assert found.first is not None
    assert found.first.batch == 1


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO audit.record(server, at, session_id, line_num, kind, tag, file, position, keep)"
        " SELECT 'stranger', at, session_id, line_num, kind, tag, file, position, keep FROM audit.record LIMIT 1",
        "INSERT INTO audit.gap(server, file, position, reason) VALUES ('stranger', '', 0, 'none')",
        "INSERT INTO audit.quarantine(server, file, position, line, reason) VALUES ('stranger', '', 0, '', 'none')",
        "INSERT INTO audit.gap(server, file, position, reason) VALUES ('main', '', 0, 'none')",
    ],
)
def test_rows_without_a_seal_are_found_also_of_a_server_that_never_sealed_one(
    sealed: Store, statement: LiteralString
) -> None:
    sealed.query(statement)
    found = check(sealed)
    assert faults(found.findings) == {Fault.ROW_ADDED}
    assert found.unsealed == 1
    if "stranger" in statement:
        assert check(sealed, lenient=True).findings == []


def erase(sealed: Store, name: str) -> None:
    sealed.query("SELECT audit.redact_person(%s, 'CHG-1', true)", [name])


def test_what_was_erased_holds_once_its_event_is_sealed_and_before_only_if_asked_for(sealed: Store) -> None:
    erase(sealed, "jane@example.com")
    assert faults(check(sealed).findings) == {Fault.ERASED_WITHOUT_EVENT}
    found = check(sealed, lenient=True)
    assert (found.findings, found.uncovered) == ([], found.redacted)
    assert found.uncovered > 0
    Sealing(sealed, "main").batch([record("main", 99)])
    found = check(sealed)
    assert (found.findings, found.uncovered) == ([], 0)


def test_an_erasure_whose_event_is_changed_is_found(sealed: Store) -> None:
    erase(sealed, "jane@example.com")
    Sealing(sealed, "main").batch([record("main", 99)])
    sealed.query("UPDATE audit.event SET actor = 'nobody' WHERE kind = 'redacted'")
    found = check(sealed)
    assert {Fault.ROW_CHANGED, Fault.ERASED_WITHOUT_EVENT} <= faults(found.findings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["redacted", "expired"])
def test_an_event_that_cannot_be_read_is_told_and_stops_nothing(sealed: Store, kind: str) -> None:
    sealed.query(
        "INSERT INTO audit.event(kind, actor, detail) VALUES (%s, 'x', '{\"version\": 1, \"part\": 7}')", [kind]
    )
    Sealing(sealed, "main").batch([record("main", 99)])
    assert [finding.fault for finding in check(sealed).findings] == [Fault.EVENT_MALFORMED]


def test_a_day_that_was_dropped_before_its_time_is_found_whatever_the_event_says(sealed: Store) -> None:
    detail = {"version": 1, "part": f"record {days(2)[1]:%Y-%m-%d} 30", "rows": BATCHES, "through": {"main": BATCHES}}
    sealed.query("DELETE FROM audit.record WHERE keep = 30")
    sealed.query(
        "INSERT INTO audit.event(at, kind, actor, detail) VALUES ('2099-01-01Z', 'expired', 'x', %s)",
        [json.dumps(detail)],
    )
    Sealing(sealed, "main").batch([record("main", 99)])
    assert [finding.fault for finding in check(sealed).findings] == [Fault.EXPIRED_EARLY]
