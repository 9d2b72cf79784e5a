"""The requests of ``api_requests.http``, which says how they are written."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).with_suffix(".http")

_REQUEST = re.compile(r"(\d{3}) ([A-Z]+) (/.*?)(?: as (\w+))?")
_HEADER = re.compile(r"  ([A-Za-z-]+): (.*)")
_BODY = re.compile(r"  \| ?(.*)")


@dataclass
class ApiRequest:
    """One request to a tenant's API, without prefix, key and token.

    ``status`` is what PostgREST answers. ``caller`` is empty for the tenant itself, else anon or a user's name.
    """

    line: int
    status: int
    method: str
    target: str
    caller: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """Lines of the body, with a line end between them."""
        return "\n".join(self.lines).encode()

    def __str__(self) -> str:
        return f"{self.line}: {self.method} {self.target[:100]}"


def read_requests() -> Iterator[ApiRequest]:
    """All of them, in their order."""
    request: ApiRequest | None = None
    for number, line in enumerate(FILE.read_text().splitlines(), 1):
        if found := _REQUEST.fullmatch(line):
            if request is not None:
                yield request
            status, method, target, caller = found.groups()
            request = ApiRequest(number, int(status), method, target.replace(" ", "%20"), caller or "")
        elif request is not None and (found := _BODY.fullmatch(line)):
            request.lines.append(found[1])
        elif request is not None and (found := _HEADER.fullmatch(line)):
            request.headers.append((found[1], found[2]))
        else:
            assert not line or line.startswith("#"), f"{FILE.name}:{number}: no request, header or body: {line}"
    assert request is not None
    yield request
