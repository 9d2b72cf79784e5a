"""A store of an earlier release is brought up to date while it runs: nothing stored again, nothing lost, all told."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.harness.audit_store import Store
from tests.harness.database import directory, free_port
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.sealed_store import Sealing, check, record
from tests.harness.shell import wait_for
from tests.harness.written_log import line

from vaultbrix.audit import rows, schema, seal
from vaultbrix.audit.evidence.findings import Fault
from vaultbrix.audit.shipping import sealing
from vaultbrix.audit.shipping.sealing import Content
from vaultbrix.postgres import scram
from vaultbrix.postgres.connect import pinned
from vaultbrix.postgres.migrations import migrate_database

FIRST = files("vaultbrix.audit").joinpath("sql/0001_store.sql").read_text()
NEWEST = max(int(script.name[:4]) for script in files("vaultbrix.audit").joinpath("sql").iterdir())


class OldStore(Store):
    """A store as the first release made it."""

    async def _prepare(self) -> None:
        await self.as_owner(self._first)
        await self.as_owner(self._logins)

    async def as_owner(self, work: Callable[[psycopg.AsyncConnection], Coroutine[Any, Any, object]]) -> None:
        async with await psycopg.AsyncConnection.connect(
            host=str(self.postgres.socket),
            port=self.postgres.port,
            user="postgres",
            dbname="audit",
            options=pinned(),
            autocommit=True,
        ) as connection:
            await work(connection)

    async def _first(self, connection: psycopg.AsyncConnection) -> None:
        await connection.execute(FIRST.encode())
        await connection.execute("CREATE TABLE public.audit_migration(version int PRIMARY KEY, name text NOT NULL,"
                                 " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())")  # fmt: skip
        await connection.execute("INSERT INTO public.audit_migration VALUES (1, '0001_store.sql')")

    async def _logins(self, connection: psycopg.AsyncConnection) -> None:
        for name, password, group in (
            ("shipper", self._password, "audit_append"),
            ("auditor", self._reader_password, "audit_read"),
        ):
            verifier = scram.verifier(password, b"0123456789abcdef")
            await schema.ensure_login(connection, name=name, group=group, verifier=verifier)

    def upgrade(self) -> None:
        """As the bootstrap Job does."""
        asyncio.run(self.as_owner(schema.migrate))


@pytest.fixture
def old() -> Iterator[OldStore]:
    with directory() as path:
        store = OldStore(path / "store", port=free_port())
        try:
            store.start()
            yield store
        finally:
            store.stop()


def shipper(store: Store, logs: Path) -> Process:
    command = ["audit", "ship", "--server=main", f"--log-directory={logs}", f"--grants={logs / 'grants'}"]
    return Process([*VAULTBRIX, *command, f"--store={store.secret}"], logs / "shipper.log")


def store_as_before(store: Store, logs: Path, file: str, upto: int, texts: list[str]) -> None:
    """Rows and checkpoint as the first release left them."""
    store.query("SELECT audit.ensure_day('2026-01-01')")
    for number, text in enumerate(texts, 1):
        store.query(
            "INSERT INTO audit.record(server, at, session_id, line_num, kind, tag, message, file, position)"
            " VALUES ('main', '2026-01-01 18:00:00.123Z', '6b0.000000', %s, 'other', '', %s, %s, 0)",
            [number, text, file],
        )
    before = (logs / file).read_bytes()[max(0, upto - 256) : upto]
    store.query(
        "INSERT INTO audit.checkpoint(server, file, inode, position, fingerprint, batch)"
        " VALUES ('main', %s, %s, %s, %s, 7)",
        [file, (logs / file).stat().st_ino, upto, hashlib.sha256(before).digest()],
    )


def messages(store: Store) -> list[str]:
    return [row[0] for row in store.query("SELECT message FROM audit.record ORDER BY message")]


def test_the_record_goes_on_where_the_release_before_left_off(old: OldStore, tmp_path: Path) -> None:
    (tmp_path / "1.json").write_bytes(line("a", 1))
    (tmp_path / "2.json").write_bytes(line("b", 2) + line("c", 3))
    store_as_before(old, tmp_path, "2.json", len(line("b", 2)), ["a", "b"])
    ships = shipper(old, tmp_path)
    ships.start()
    try:
        wait_for("the shipper tells what it waits for", lambda: "has yet to upgrade" in ships.text(), tell=ships.text)
        old.upgrade()
        wait_for("what is new is stored", lambda: "c" in messages(old), tell=ships.text)
        (tmp_path / "3.json").write_bytes(line("d", 4))
        wait_for("and the next file", lambda: "d" in messages(old), tell=ships.text)
    finally:
        ships.stop()
    assert messages(old) == ["a", "b", "c", "d"]
    assert old.query("SELECT * FROM audit.gap") == []
    found = check(old)
    assert (found.findings, found.unsealed) == ([], 2)


def test_a_store_newer_than_the_shipper_is_left_alone_and_told(old: OldStore, tmp_path: Path) -> None:
    old.upgrade()
    # It has stored nothing before, so that its login is bound to no server yet.
    old.bind("main")
    old.query("INSERT INTO public.audit_migration VALUES (%s, 'later')", [NEWEST + 1])
    (tmp_path / "1.json").write_bytes(line("a"))
    ships = shipper(old, tmp_path)
    ships.start()
    try:
        wait_for("it says so", lambda: "upgrade the shipper" in ships.text(), tell=ships.text)
        assert messages(old) == []
        old.query("DELETE FROM public.audit_migration WHERE name = 'later'")
        wait_for("it goes on by itself", lambda: messages(old) == ["a"], tell=ships.text)
    finally:
        ships.stop()


def test_what_was_sealed_before_there_were_approvers_stays_proven(old: OldStore) -> None:
    known = [script for script in schema.migrations() if script.version <= 15]

    async def to_fifteen(connection: psycopg.AsyncConnection) -> None:
        await migrate_database(connection, schema.LEDGER, known)

    asyncio.run(old.as_owner(to_fifteen))
    old.bind("main")
    records = [record("main", number, statement=text) for number, text in enumerate(("a", "b\t", ""), 1)]
    content = Content([(each, rows.record_line(each)) for each in records])
    signer = seal.Signer(old.signing_key.encode())
    sealed = sealing.seal(signer, "main", 1, seal.NO_PREVIOUS, None, content, now=datetime.now(UTC))
    header = sealed.header

    def store_sealed() -> None:
        with old.open(options=rows.SETTINGS) as connection, connection.transaction():
            connection.execute("INSERT INTO audit.checkpoint(server, batch) VALUES ('main', 1)")
            for day, keep in sealed.partitions:
                connection.execute("SELECT audit.ensure_partition(%s, %s)", [day, keep])
            with connection.cursor().copy(f"COPY audit.record ({rows.RECORD}, {rows.SEAL}) FROM STDIN") as copy:
                for line in sealed.rows.records:
                    before, _, after = line.rpartition(b"\t\t")
                    copy.write(before + b"\t" + after)
            connection.execute(
                "INSERT INTO audit.batch VALUES ('main', 1, %s, '', 0, 0, %s, %s, %s, %s, %s)",
                [header.sealed_at, header.parts, header.previous, header.root, sealed.signer, sealed.signature],
            )
            for name, part in sealed.parts.items():
                connection.execute(
                    "INSERT INTO audit.part VALUES ('main', 1, %s, %s, %s)", [name, part.leaves, part.root]
                )

    store_sealed()
    old.upgrade()
    assert check(old).findings == []
    Sealing(old, "main").batch([record("main", 9, approver="pat@example.com")])
    found = check(old)
    assert (found.findings, found.rows) == ([], 4)
    old.query("UPDATE audit.record SET approver = 'eve@example.com' WHERE line_num = 2")
    assert [finding.fault for finding in check(old).findings] == [Fault.ROW_CHANGED]


def test_two_installs_at_once_make_one_store(old: OldStore) -> None:
    async def install(connection: psycopg.AsyncConnection) -> None:
        await schema.migrate(connection)
        verifier = scram.verifier("secret", b"0123456789abcdef")
        await schema.ensure_login(connection, name="new", group="audit_read", verifier=verifier)

    async def both() -> None:
        await asyncio.gather(*(old.as_owner(install) for _ in range(4)))

    asyncio.run(both())
    assert old.query("SELECT count(*), max(version) FROM public.audit_migration") == [(NEWEST, NEWEST)]
