"""A log directory that a test writes line by line, and the shipper that follows it."""

import itertools
import json
from pathlib import Path
from typing import Any

from tests.harness.audit_store import Store
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for


class Log:
    """A log directory that the test writes and a shipper reads."""

    def __init__(self, path: Path, store: Store, server: str, *options: str) -> None:
        path.mkdir()
        self.path, self.store, self.server = path, store, server
        store.bind(server)
        self.shipper = Process(
            [
                *VAULTBRIX,
                "audit",
                "ship",
                f"--server={server}",
                f"--log-directory={path}",
                f"--grants={path / 'grants'}",
                f"--store={store.secret}",
                "--metrics-port=0",
                *options,
            ],
            path.parent / "shipper.log",
        )

    def write(self, name: str, content: bytes) -> None:
        """Append to a file, as PostgreSQL does."""
        with (self.path / f"{name}.json").open("ab") as file:
            file.write(content)

    def messages(self) -> list[str]:
        """What is stored, in order."""
        found = "SELECT message FROM audit.record WHERE server = %s ORDER BY file, position"
        return [row[0] for row in self.store.query(found, [self.server])]

    def gaps(self) -> list[tuple[Any, ...]]:
        """What the store says is missing."""
        return self.store.query("SELECT file, position, reason FROM audit.gap WHERE server = %s", [self.server])

    def quarantine(self) -> list[tuple[Any, ...]]:
        """What could not be read."""
        found = "SELECT file, position, line FROM audit.quarantine WHERE server = %s ORDER BY file, position"
        return [(file, position, bytes(text)) for file, position, text in self.store.query(found, [self.server])]

    def await_messages(self, *messages: str) -> None:
        """Wait until exactly these are stored."""
        wait_for(
            f"{messages} are stored",
            lambda: self.messages() == list(messages),
            tell=lambda: f"{self.messages()}\n{self.shipper.text()}",
        )


_sessions = itertools.count(1)


def line(message: str, number: int | None = None, **fields: object) -> bytes:
    """A line as PostgreSQL writes it: the first of a session of its own, or that number of one that all share."""
    entry = {
        "timestamp": "2026-12-01 18:00:00.123 UTC",
        "session_id": f"6b0.{0 if number else next(_sessions):06x}",
        "line_num": number or 1,
        "error_severity": "LOG",
        "message": message,
        **fields,
    }
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
