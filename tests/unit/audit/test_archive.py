"""Decisions of the archive, and that a row of it leads to the very line that was sealed."""

from datetime import UTC, date, datetime, timedelta
from ipaddress import IPv6Address
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.audit import rows, seal
from vaultbrix.audit.archive import manifest as manifests
from vaultbrix.audit.archive import plan
from vaultbrix.audit.archive.cold import cold_days
from vaultbrix.audit.archive.columns import QUARANTINE, RECORD
from vaultbrix.audit.archive.everywhere import spans
from vaultbrix.audit.archive.manifest import BadManifest, Manifest, Span
from vaultbrix.audit.archive.place import BadPlace, Place
from vaultbrix.audit.records import Record

DAY = date(2026, 11, 27)
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)

text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
hostile = text | st.text("\\\t\n\r\b\f\vN.\"',", max_size=6)
number = st.none() | st.integers(0, 2**31 - 1)
addresses = st.ip_addresses().map(str) | st.integers(0, 2**32 - 1).map(lambda n: str(IPv6Address(0xFFFF << 32 | n)))
records = st.builds(
    Record,
    server=hostile,
    at=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),  # noqa: DTZ001
    session_id=hostile,
    line_num=st.integers(0, 2**63 - 1),
    kind=st.sampled_from(("statement", "other")),
    pid=number,
    role=st.none() | hostile,
    tenant=hostile,
    person=hostile,
    authorization=hostile,
    database=st.none() | hostile,
    address=st.none() | addresses,
    application=st.none() | hostile,
    tag=hostile,
    vxid=st.none() | hostile,
    statement=st.none() | hostile,
    row_count=number,
    duration_ms=st.none() | st.floats(0, 1e14, allow_nan=False),
    message=st.none() | hostile,
    file=hostile,
    position=st.integers(0, 2**63 - 1),
    keep=st.integers(1, 36500),
    approver=st.just("") | hostile,
)


def batch_of(table: Any, found: list[dict[str, Any]]) -> pa.RecordBatch:
    whole = [{**dict.fromkeys(table.columns), **row} for row in found]
    return pa.RecordBatch.from_pylist(whole, table.schema)


def values(record: Record) -> dict[str, Any]:
    names = [name.strip() for name in rows.STORED.split(",")]
    attributes = {"class": "class_", "ground": "authorization"}
    return {name: getattr(record, attributes.get(name, name)) for name in names}


@given(st.lists(records, min_size=1, max_size=2))
def test_a_row_of_the_archive_gives_the_line_that_was_sealed(found: list[Record]) -> None:
    assert RECORD.lines(batch_of(RECORD, [values(record) for record in found])) == [rows.record_line(r) for r in found]


@given(st.lists(records, min_size=1, max_size=2))
def test_a_row_of_a_file_from_before_there_were_approvers_gives_its_line(found: list[Record]) -> None:
    earlier = RECORD.schema.remove(len(RECORD.columns) - 1)
    assert RECORD.reads(earlier)
    assert not RECORD.reads(earlier.remove(0))
    for record in found:
        record.approver = ""
    block = batch_of(RECORD, [values(record) for record in found]).select(earlier.names)
    assert RECORD.lines(block) == [rows.record_line(r) for r in found]


@given(st.lists(st.tuples(hostile, st.binary(max_size=40)), min_size=1, max_size=5))
def test_a_quarantined_line_gives_the_line_that_was_sealed(found: list[tuple[str, bytes]]) -> None:
    made = [{"server": s, "file": s, "position": 1, "line": b, "reason": s, "found_at": NOON} for s, b in found]
    assert QUARANTINE.lines(batch_of(QUARANTINE, made)) == [rows.quarantine_line(s, s, 1, b, s, NOON) for s, b in found]


parts = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from((90, 400)), st.integers(1, 30), st.integers(1, 9)),
    unique_by=lambda part: part[:3],
)


@given(parts, st.integers(1, 20))
def test_files_hold_every_part_once_and_no_more_than_they_may(
    found: list[tuple[str, int, int, int]], most: int
) -> None:
    made = plan.pieces(found, most)
    assert sum(piece.rows for piece in made) == sum(part[3] for part in found)
    for server, keep, batch, _ in found:
        assert sum((p.server, p.keep) == (server, keep) and p.first <= batch <= p.last for p in made) == 1
    assert all(piece.rows <= most or piece.first == piece.last for piece in made)
    assert len({piece.name for piece in made}) == len(made)


@pytest.mark.parametrize("server", ["a/../b", "x" * 300, "größe\n", "."])
def test_a_server_of_any_name_has_a_plain_file_name(server: str) -> None:
    name = plan.Piece(server, 400, 1, 2, 3).name
    assert name.isascii()
    assert "/" not in name
    assert len(name) < 200


@pytest.mark.parametrize(
    ("newest", "now", "why"),
    [
        ({"main": NOON}, NOON, None),
        ({"main": NOON}, datetime(2026, 11, 28, 0, 0, 30, tzinfo=UTC), "it is not over yet (UTC)"),
        ({"main": NOON, "b": None}, NOON, "no record after it is stored yet from b"),
        ({"main": NOON - timedelta(days=1)}, NOON, "no record after it is stored yet from main"),
        ({}, NOON, None),
    ],
)
def test_a_day_waits_for_its_end_and_for_all_servers(newest: dict[str, Any], now: datetime, why: str | None) -> None:
    assert plan.waiting_for(DAY, newest, now=now) == why


def test_what_retention_dropped_or_an_earlier_set_holds_is_not_wanted() -> None:
    found = [("a", 400, batch, 1) for batch in range(1, 7)] + [("a", 90, 4, 1), ("b", 400, 1, 1)]
    dropped = {f"record {DAY} 400": {"a": 3}}
    assert plan.parts_to_export(found, DAY, {"a": 2}, {"a": 5, "b": 0}, dropped) == [
        ("a", 400, 4, 1), ("a", 400, 5, 1), ("a", 90, 4, 1),
    ]  # fmt: skip


def test_a_day_is_cold_once_something_of_it_was_dropped_and_so_is_the_day_after() -> None:
    archived = {DAY + timedelta(days=n): {90, 400} for n in range(5)}
    stored = {day: {90, 400} for day in archived} | {DAY: set(), DAY + timedelta(days=3): {400}}
    cold = {DAY, DAY + timedelta(days=1), DAY + timedelta(days=3), DAY + timedelta(days=4)}
    assert cold_days(archived, stored, set()) == cold
    assert cold_days(archived, stored, {DAY + timedelta(days=1), DAY}) == cold - {DAY + timedelta(days=1)}


times = st.integers(0, 10 * 24).map(lambda hours: datetime(2026, 11, 20, tzinfo=UTC) + timedelta(hours=hours))


@given(times, times, st.sets(st.integers(0, 12).map(lambda n: date(2026, 11, 19) + timedelta(days=n))))
def test_every_time_is_answered_by_one_of_both(since: datetime, until: datetime, days: set[date]) -> None:
    found = spans(since, until, sorted(days))
    assert [span.since for span in found[1:]] == [span.until for span in found[:-1]]
    if since < until:
        assert (found[0].since, found[-1].until) == (since, until)
    assert all(span.since < span.until for span in found)
    for span in found:
        begin, end = span.since.date(), (span.until - timedelta(microseconds=1)).date()
        touched = {begin + timedelta(days=n) for n in range((end - begin).days + 1)}
        assert set(span.days) == (touched if span.days else set())
        assert bool(span.days) == bool(touched & days)


def manifest() -> Manifest:
    signer = seal.Signer(seal.new_key()[0].encode())
    return Manifest(manifests.FORMAT, DAY, 1, NOON, signer.identity.hex(), (400,), {"b": Span(0, 2, 1, 2, "00")}, ())


def test_a_manifest_is_the_same_bytes_each_time_and_names_what_is_wrong() -> None:
    private, public = seal.new_key()
    signer, keys = seal.Signer(private.encode()), seal.public_keys(public.encode())
    content = msgspec.structs.replace(manifest(), signer=signer.identity.hex()).encode()
    signature = signer.sign_content(content)
    assert manifests.verified(content, signature, keys).encode() == content
    for wrong, signed_with, known, expected in (
        (content + b" ", signature, keys, "the signature is not that of its content"),
        (content, signature, {}, "not among the public keys"),
        (b"{}", signature, keys, "not a manifest"),
        (content.replace(b"archive 1", b"archive 9"), signature, keys, "format is 'vaultbrix audit archive 9'"),
        (content[:-1] + b',"x":1}', signature, keys, "not a manifest"),
    ):
        with pytest.raises(BadManifest, match=expected):
            manifests.verified(wrong, signed_with, known)


def test_a_manifest_that_is_replaced_does_not_count() -> None:
    first, second = manifest(), msgspec.structs.replace(manifest(), number=2, replaces=("a",))
    assert manifests.current({"a": first, "b": second}) == {"b": second}


def test_no_file_outside_of_the_archive_is_named() -> None:
    place = Place("somewhere")
    for name in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(BadPlace):
            place.path(name)
