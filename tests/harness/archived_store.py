"""Logs of chosen days, shipped by a real shipper into a real store, and the archive that is made of it."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.harness.audit_store import Store
from tests.harness.database import directory, free_port
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for

from vaultbrix.audit import rows, seal
from vaultbrix.audit.archive import store as archive_store
from vaultbrix.audit.archive.check import Report, check_archive
from vaultbrix.audit.archive.export import Done, Exporter, Options
from vaultbrix.audit.archive.manifest import NAME, SIGNATURE_NAME
from vaultbrix.audit.archive.place import Place

HOSTILE = 'a,"b"\\N\t\r\n\\.\nGröße \U0001f512 \x01\x7f ="1"'


def day_of(days_ago: int) -> date:
    """A past day, UTC."""
    return datetime.now(UTC).date() - timedelta(days=days_ago)


def line(day: date, number: int, *, session: str = "", **more: Any) -> dict[str, Any]:
    """A line of jsonlog at second ``number`` of a day."""
    at = datetime.combine(day, datetime.min.time(), UTC) + timedelta(seconds=number)
    entry = {
        "timestamp": f"{at:%Y-%m-%d %H:%M:%S}.{number % 1000:03} UTC",
        "user": "tenant_a",
        "dbname": "postgres",
        "pid": 7,
        "remote_host": "2001:db8::7",
        "session_id": session or f"s{day:%Y%m%d}",
        "line_num": number,
        "ps": "SELECT",
        "vxid": "3/4",
        "error_severity": "LOG",
        "state_code": "00000",
        "message": "said",
        "application_name": "psql",
        "func_name": "exec_stmt_raise",
    }
    return {**entry, **more}


def statement(day: date, number: int, text: str, **more: Any) -> list[dict[str, Any]]:
    """A statement with its duration, at two seconds of a day."""
    quoted = text.replace('"', '""')
    audit = f'AUDIT: SESSION,{number},1,READ,SELECT,,,"{quoted}",<none>'
    return [
        line(day, number, message=audit, func_name="log_audit_event", **more),
        line(day, number + 1, message=f"duration: {number / 7:.3f} ms", func_name="exec_simple_query", **more),
    ]


@dataclass
class Server:
    """A server of which there is a log and a shipper, but no PostgreSQL."""

    name: str
    logs: Path
    shipper: Process

    def write(self, file: str, entries: Sequence[dict[str, Any] | bytes]) -> None:
        """Append to a file of the log; bytes as they are."""
        with (self.logs / f"{file}.json").open("ab") as log:
            for entry in entries:
                log.write(entry if isinstance(entry, bytes) else json.dumps(entry).encode() + b"\n")


@dataclass
class ArchivedStore:
    """A store, its servers, and a place for the archive."""

    store: Store
    path: Path
    url: str
    servers: dict[str, Server] = field(default_factory=dict)
    key: str = ""
    public: str = ""

    def server(self, name: str) -> Server:
        """One more server, its shipper running."""
        logs = self.path / f"logs-{name}"
        logs.mkdir()
        self.store.bind(name)
        arguments = [f"--server={name}", f"--log-directory={logs}", f"--grants={self.path / 'none'}"]
        shipper = Process(
            [*VAULTBRIX, "audit", "ship", *arguments, f"--store={self.store.secret}"], self.path / f"{name}.log"
        )
        shipper.start()
        self.servers[name] = Server(name, logs, shipper)
        return self.servers[name]

    def settle(self) -> None:
        """Wait until every line of every log is stored, and every event sealed."""

        def there() -> bool:
            found = {
                (server, file): position
                for server, file, position in self.store.query("SELECT server, file, position FROM audit.logfile")
            }
            return all(
                found.get((server.name, path.name), -1) >= path.stat().st_size
                for server in self.servers.values()
                for path in server.logs.glob("*.json")
            )

        wait_for("every line is stored", there, tell=lambda: "\n".join(s.shipper.text() for s in self.servers.values()))
        wait_for("every event is sealed", lambda: not self.store.query("SELECT 1 FROM audit.event WHERE batch IS NULL"))

    def export(self, day: date, *, url: str = "", now: datetime | None = None, **options: Any) -> Done:
        """Export a day in this process."""
        with self.store.open(options=rows.SETTINGS) as link:
            assert archive_store.alone(link)
            exporter = Exporter(link, Place(url or self.url), seal.Signer(self.key.encode()), lambda *_: None)
            return exporter.export(day, Options(**options), now=now or datetime.now(UTC))

    def check(self, day: date, number: int = 1, *, url: str = "") -> Report:
        """Check a set with the keys that belong to it."""
        place, folder = Place(url or self.url), f"day={day}/set={number}"
        return check_archive(
            place.read(f"{folder}/{NAME}"),
            place.read(f"{folder}/{SIGNATURE_NAME}"),
            lambda name: place.open(f"{folder}/{name}"),
            exporters=seal.public_keys(self.public.encode()),
            shippers=seal.public_keys(self.store.public_key.encode()),
        )


@contextlib.contextmanager
def archived_store() -> Iterator[ArchivedStore]:
    """A running store without servers yet; all ended afterwards."""
    with directory() as path:
        found = ArchivedStore(Store(path / "store", port=free_port()), path, str(path / "archive"))
        found.key, found.public = seal.new_key()
        try:
            found.store.start()
            yield found
        finally:
            for server in found.servers.values():
                server.shipper.stop()
            found.store.stop()
