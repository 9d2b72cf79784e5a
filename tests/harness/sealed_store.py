"""A small sealed store: rows of several days and tenants, stored by the product's own code, and its verifier."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from tests.harness.audit_store import Store

from vaultbrix.audit import rows
from vaultbrix.audit.evidence.findings import Anchor
from vaultbrix.audit.evidence.verify import Checked, Verifier
from vaultbrix.audit.records import Record
from vaultbrix.audit.seal import Signer, public_keys
from vaultbrix.audit.shipping import store
from vaultbrix.audit.shipping.followed import Batch, Gap, Position
from vaultbrix.audit.shipping.sealing import Content, Quarantined, seal
from vaultbrix.postgres.connect import Target, open_connection

DAY = datetime(2026, 12, 1, 12, tzinfo=UTC)
HOSTILE = "a\\b\tc\nd\re\bf\fg\vh'\"é\u2028\U0001f512 \\N \\."


def record(server: str, number: int, *, at: datetime = DAY, keep: int = 400, **fields: object) -> Record:
    """A statement of session s1."""
    values = {
        "kind": "statement",
        "pid": 7,
        "role": "tenant_acme",
        "tenant": "team/acme",
        "person": "jane@example.com",
        "authorization": "team/jane",
        "database": "app",
        "address": "203.0.113.7",
        "application": "psql",
        "tag": "SELECT",
        "vxid": "3/1",
        "statement": f"SELECT {number}",
        "file": "1.json",
        "position": number,
        **fields,
    }
    return Record(server=server, at=at, session_id="s1", line_num=number, keep=keep, **values)  # type: ignore[arg-type]


class Sealing:
    """Seals batches of one server into a store, as its shipper."""

    def __init__(self, where: Store, server: str, key: str | None = None) -> None:
        self.store, self.server = where, server
        where.bind(server)
        self.signer = Signer((key or where.signing_key).encode())

    def batch(
        self, records: Sequence[Record], *, gaps: Sequence[Gap] = (), quarantined: Sequence[Quarantined] = ()
    ) -> None:
        """Store one batch, with whatever events wait."""
        asyncio.run(self._batch(records, gaps, quarantined))

    async def _batch(self, records: Sequence[Record], gaps: Sequence[Gap], quarantined: Sequence[Quarantined]) -> None:
        found = json.loads(json.dumps({name: (self.store.secret / name).read_text() for name in ("host", "port")}))
        target = Target(
            host=found["host"],
            port=int(found["port"]),
            database="audit",
            user="shipper",
            password=(self.store.secret / "password").read_text(),
            ca=(self.store.secret / "ca.crt").read_text(),
            options=rows.SETTINGS,
        )
        async with await open_connection(target) as connection:
            known = await store.load(connection, self.server)
            position = Position(1, known.batch + 1, b"")
            batch = Batch("1.json", known.batch, position, gaps=list(gaps))
            events = await store.unsealed(connection)
            content = Content([(row, rows.record_line(row)) for row in records], gaps, quarantined, events)
            now = datetime.now(UTC)
            sealed = seal(self.signer, self.server, known.batch + 1, known.head, batch, content, now=now)
            await store.store(connection, batch, sealed)


def verifier(where: Store, *anchors: Anchor, lenient: bool = False) -> Verifier:
    """A verifier with the store's key, as its owner (a reader sees the same)."""
    connection = psycopg.connect(
        host=str(where.postgres.socket),
        port=where.postgres.port,
        user="postgres",
        dbname="audit",
        autocommit=True,
        options=rows.SETTINGS,
    )
    return Verifier(connection, public_keys(where.public_key.encode()), anchors=anchors, lenient=lenient)


def check(where: Store, *anchors: Anchor, lenient: bool = False) -> Checked:
    """Verify all of the store."""
    return verifier(where, *anchors, lenient=lenient).whole()


def days(count: int) -> list[datetime]:
    """The same hour of so many days."""
    return [DAY + timedelta(days=number) for number in range(count)]


def write(path: Path, content: str | bytes) -> Path:
    """A file with that content."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
