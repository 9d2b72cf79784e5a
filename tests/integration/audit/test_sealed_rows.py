"""A row is sealed as the bytes that PostgreSQL gives back for it: otherwise no seal could ever be checked."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.audit_store import Store
from tests.harness.database import directory, free_port

from vaultbrix.audit import rows
from vaultbrix.audit.records import MalformedLine, Record
from vaultbrix.postgres.connect import Target, open_connection

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def link() -> Iterator[psycopg.Connection]:
    """As the shipper connects, and as one who checks seals does."""
    with directory() as path:
        store = Store(path / "store", port=free_port())
        try:
            store.start()
            postgres = store.postgres
            with psycopg.connect(
                host=str(postgres.socket), port=postgres.port, user="postgres", dbname="audit",
                options=rows.SETTINGS, client_encoding="UTF8",
            ) as connection:  # fmt: skip
                # Columns of the same types, without partitions.
                connection.execute("CREATE TEMP TABLE copied (LIKE audit.record)")
                connection.execute("CREATE TEMP TABLE copied_gap (LIKE audit.gap)")
                connection.execute("CREATE TEMP TABLE copied_quarantine (LIKE audit.quarantine)")
                for name in ("copied_gap", "copied_quarantine"):
                    connection.execute(f"ALTER TABLE {name} ALTER id DROP NOT NULL")  # type: ignore[arg-type]
                connection.commit()
                yield connection
        finally:
            store.stop()


def back(link: psycopg.Connection, table: str, columns: str, lines: list[bytes]) -> list[bytes]:
    """What PostgreSQL says of rows it was given."""
    with link.cursor() as cursor:
        with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:  # type: ignore[arg-type]
            copy.write(b"".join(line + b"\n" for line in lines))
        with cursor.copy(f"COPY (SELECT {columns} FROM {table}) TO STDOUT") as copy:  # type: ignore[arg-type]
            found = b"".join(bytes(block) for block in copy)
    link.rollback()
    return found.split(b"\n")[:-1]


# Whatever a tenant can send; what COPY escapes more often than chance would have it.
HOSTILE = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), st.sampled_from("\\\b\f\n\r\t\v\x7f\x01N.")
    ),
    max_size=20,
)
MAYBE = st.none() | HOSTILE
BIGINT = st.integers(0, 2**63 - 1)
ADDRESSES = (
    st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
    | st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number)))
    | st.integers(0, 2**48 - 1).map(lambda number: str(IPv6Address(number)))
    | st.integers(0, 2**8 - 1).map(lambda zeros: str(IPv6Address(
        sum((0x10000 - 1) << 16 * place for place in range(8) if zeros >> place & 1)
    )))
)  # fmt: skip
TIMES = st.integers(0, 250_000_000_000 * 10**6).map(
    lambda number: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=number)
)
RECORDS = st.builds(
    Record,
    server=HOSTILE, at=TIMES, session_id=HOSTILE, line_num=BIGINT, kind=st.sampled_from(["statement", "other"]),
    pid=st.none() | st.integers(0, 2**31 - 1), role=MAYBE, tenant=HOSTILE, person=HOSTILE, authorization=HOSTILE,
    database=MAYBE, address=st.none() | ADDRESSES, application=MAYBE, tag=HOSTILE, vxid=MAYBE, class_=MAYBE,
    command=MAYBE, object_type=MAYBE, object_name=MAYBE, statement_id=st.none() | BIGINT,
    substatement_id=st.none() | BIGINT, statement=MAYBE, row_count=st.none() | BIGINT,
    duration_ms=st.none() | st.integers(0, 10**15).map(lambda number: number / 1000)
    | st.floats(0, 1e15, exclude_max=True),
    severity=MAYBE, sqlstate=MAYBE, message=MAYBE, file=HOSTILE, position=BIGINT, keep=st.integers(1, 36500),
    approver=st.just("") | HOSTILE,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(RECORDS, min_size=1, max_size=40))
def test_a_record_comes_back_as_the_line_that_was_sealed(link: psycopg.Connection, found: list[Record]) -> None:
    lines = []
    for record in found:
        try:
            lines.append(rows.record_line(record))
        except MalformedLine:
            assert record.duration_ms is not None
    # COPY wants all columns, and gives them; an empty approver is none in what is sealed.
    fields = rows.RECORD.count(",")
    given_lines = [line if line.count(b"\t") > fields else line + b"\t" for line in lines]
    returned = [rows.without_approver(line) for line in back(link, "copied", rows.STORED, given_lines)]
    assert sorted(returned) == sorted(lines)


@settings(max_examples=30, deadline=None)
@given(server=HOSTILE, file=HOSTILE, position=BIGINT, line=st.binary(max_size=40), reason=HOSTILE, at=TIMES)
def test_gaps_and_quarantine_come_back_as_they_were_sealed(
    link: psycopg.Connection, server: str, file: str, position: int, line: bytes, reason: str, at: datetime
) -> None:
    gap = rows.gap_line(server, file, position, reason, at)
    assert back(link, "copied_gap", rows.GAP, [gap]) == [gap]
    bad = rows.quarantine_line(server, file, position, line, reason, at)
    assert back(link, "copied_quarantine", rows.QUARANTINE, [bad]) == [bad]


def test_a_time_of_another_zone_is_sealed_as_utc() -> None:
    assert rows.timestamp(NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))) == rows.timestamp(NOON)


def test_the_shippers_own_connection_speaks_the_sealed_text() -> None:
    with directory() as path:
        store = Store(path / "store", port=free_port())
        try:
            store.start()
            values = {name: (store.secret / name).read_text() for name in ("host", "dbname", "username", "password")}

            async def shown() -> list[str]:
                target = Target(
                    host=values["host"], port=store.postgres.port, database=values["dbname"], user=values["username"],
                    password=values["password"], ca=store.postgres.authority.read_text(), application="tests",
                    options=rows.SETTINGS,
                )  # fmt: skip
                async with await open_connection(target) as connection:
                    names = ("TimeZone", "DateStyle", "extra_float_digits", "bytea_output", "client_encoding")
                    return [
                        str(
                            (await (await connection.execute("SELECT current_setting(%s)", [name])).fetchone() or [""])[
                                0
                            ]
                        )
                        for name in names
                    ]

            assert asyncio.run(shown()) == ["UTC", "ISO, MDY", "1", "hex", "UTF8"]
        finally:
            store.stop()
