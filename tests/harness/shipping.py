"""From a tenant's session to rows in the audit store: database, shipper process and store together."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from tests.harness.audit_store import Store
from tests.harness.database import Database, directory, free_port, running
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for

from vaultbrix.grants.state import GrantRecord, LoginRecord, Snapshot

JANE = "jane@example.com"


class Shipping:
    """The shipper of one database's log."""

    def __init__(self, path: Path, database: Database, store: Store | None = None) -> None:
        self.database = database
        self.postgres = database.postgres
        self.store = store or Store(path / "store", port=free_port())
        self.path = path
        self.grants = path / "grants.json"
        self.shipper = self.another("shipper")

    def another(self, name: str, *options: str) -> Process:
        """A shipper process of the same log and store."""
        return Process(
            [
                *VAULTBRIX,
                "audit",
                "ship",
                "--server=main",
                f"--log-directory={self.postgres.logs}",
                f"--grants={self.grants}",
                f"--store={self.store.secret}",
                f"--flow={self.path / name}.json",
                "--metrics-port=0",
                *options,
            ],
            self.path / f"{name}.log",
        )

    def open_grants(
        self, role: str, *, person: str = JANE, approver: str = "", logins: dict[str, LoginRecord] | None = None
    ) -> None:
        """What the agent keeps on disk while one rule is open for the role."""
        now = datetime.now(UTC)
        grant = GrantRecord(
            rule="team/jane",
            uid="u1",
            generation=1,
            tenant=f"team/{role}",
            role=role,
            cidrs=("127.0.0.0/8",),
            deadline=now + timedelta(hours=1),
            requested_by=person,
            approved_by=approver,
            reason="tests",
            opened_at=now - timedelta(minutes=1),
        )
        state = Snapshot(server="main", grants=(grant,), logins=logins or {})
        partial = self.grants.with_suffix(".partial")
        partial.write_text(state.model_dump_json())
        partial.rename(self.grants)

    def session(self, role: str, work: Callable[[psycopg.Connection], object], **options: Any) -> list[dict[str, Any]]:
        """Log in, work, log out; returns the session's rows of audit.statement once it is stored to its end."""
        connection = self.database.login(role, **options)
        pid = connection.info.backend_pid
        try:
            with contextlib.suppress(psycopg.Error):
                work(connection)
        finally:
            connection.close()
        return self.statements(pid)

    def statements(self, pid: int) -> list[dict[str, Any]]:
        """The statements of a session that has ended, in order."""
        wait_for(
            "the end of the session is in the store",
            lambda: self.store.query("SELECT 1 FROM audit.record WHERE pid = %s AND kind = 'disconnection'", [pid]),
            tell=self.shipper.text,
        )
        rows = self.store.query("SELECT to_jsonb(s) FROM audit.statement s WHERE pid = %s ORDER BY line_num", [pid])
        return [row[0] for row in rows]

    def settle(self, patience: float = 120) -> None:
        """Wait until the store has every line of the log that is there now."""

        def there() -> bool:
            sizes = {path.name: path.stat().st_size for path in self.postgres.logs.glob("*.json")}
            found = dict(self.store.query("SELECT file, position FROM audit.logfile WHERE server = 'main'"))
            return all(found.get(name, -1) >= size for name, size in sizes.items())

        wait_for("the store has all lines", there, patience=patience, tell=self.shipper.text)


@contextlib.contextmanager
def shipping(settings: dict[str, str] | None = None) -> Iterator[Shipping]:
    """All of it, running; stopped afterwards."""
    with running(settings) as database, directory() as path:
        parts = Shipping(path, database)
        try:
            parts.store.start()
            parts.shipper.start()
            yield parts
        finally:
            parts.shipper.stop()
            parts.store.stop()
