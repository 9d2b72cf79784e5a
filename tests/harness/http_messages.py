"""HTTP requests byte for byte as a test writes them, over TCP or a Unix socket."""

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What a server answered; names of headers are in lower case, and several of one name are joined by commas."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(
    server: Path | int, method: str, target: str, headers: Headers, body: bytes = b"", *, timeout: float = 30
) -> Answer:
    """One request to a Unix socket or a port of 127.0.0.1; only ``Content-Length`` is added, where there is a body.

    A header may be given several times; ``target`` is sent as it is, in UTF-8. With ``Transfer-Encoding`` the body goes
    in one chunk.
    """
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    names = {name.lower() for name, _ in pairs}
    connection = (
        _UnixConnection(server, timeout)
        if isinstance(server, Path)
        else http.client.HTTPConnection("127.0.0.1", server, timeout=timeout)
    )
    # Targets that no client should send are sent, too.
    connection._validate_path = lambda _: None  # type: ignore[attr-defined]  # the class has no other way
    connection._encode_request = str.encode  # type: ignore[attr-defined]
    chunked = "transfer-encoding" in names
    try:
        connection.putrequest(method, target, skip_host="host" in names, skip_accept_encoding=True)
        for name, value in pairs:
            connection.putheader(name, value)
        if body and not chunked and "content-length" not in names:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None, encode_chunked=chunked)
        answer = connection.getresponse()
        found: dict[str, str] = {}
        for name, value in answer.getheaders():
            known = found.get(name.lower())
            found[name.lower()] = value if known is None else f"{known}, {value}"
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()


def raw(server: int, message: bytes, *, timeout: float = 30) -> bytes:
    """All that a port of 127.0.0.1 answers to these bytes until it ends the connection or says no more."""
    with socket.create_connection(("127.0.0.1", server), timeout) as connection:
        connection.sendall(message)
        received = b""
        while True:
            try:
                part = connection.recv(65536)
            except (TimeoutError, ConnectionResetError):
                return received
            if not part:
                return received
            received += part
