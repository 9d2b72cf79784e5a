"""Portals that are read a few rows at a time, as JDBC does with a fetch size: libpq has no way to ask for that."""

import socket
import struct
from collections.abc import Sequence

from tests.harness.postgres import USER, Postgres

_PROTOCOL_3 = 196608


class PortalClient:
    """A superuser's session over the Unix socket that speaks the extended protocol (PostgreSQL, 55.2.3).

    ``error`` is the first error message of the server, None while there is none.
    """

    def __init__(self, postgres: Postgres, **settings: str) -> None:
        self.error: str | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(postgres.socket / f".s.PGSQL.{postgres.port}"))
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        pairs = {"user": USER, "database": "postgres", "options": options}
        body = b"".join(f"{key}\0{value}\0".encode() for key, value in pairs.items()) + b"\0"
        self._socket.sendall(struct.pack("!II", len(body) + 8, _PROTOCOL_3) + body)
        self._read_until_ready()

    def query(self, text: str) -> int:
        """One simple message; returns the number of rows."""
        self._send(b"Q", text.encode() + b"\0")
        return self._read_until_ready()

    def open(self, text: str, portal: str, *, rows: int) -> int:
        """Bind a statement to a portal of that name and read so many rows of it; returns how many came."""
        self._send(b"P", b"\0" + text.encode() + b"\0" + struct.pack("!H", 0))
        self._send(b"B", portal.encode() + b"\0\0" + struct.pack("!HHH", 0, 0, 0))
        return self.fetch(portal, rows=rows)

    def fetch(self, portal: str, *, rows: int) -> int:
        """Read so many rows more, 0 for all; returns how many came."""
        self._send(b"E", portal.encode() + b"\0" + struct.pack("!I", rows))
        self._send(b"S", b"")
        return self._read_until_ready()

    def close(self) -> None:
        """End the session."""
        self._socket.close()

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(kind + struct.pack("!I", len(body) + 4) + body)

    def _read_until_ready(self) -> int:
        rows, kind = 0, b""
        while kind != b"Z":
            kind, length = struct.unpack("!cI", self._receive(5))
            body = self._receive(length - 4)
            rows += kind == b"D"
            if kind == b"E" and self.error is None:
                self.error = _message(body.split(b"\0"))
        return rows

    def _receive(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            part = self._socket.recv(count - len(received))
            assert part, "PostgreSQL has closed the connection"
            received += part
        return received


def _message(fields: Sequence[bytes]) -> str:
    return next(field[1:].decode() for field in fields if field[:1] == b"M")
