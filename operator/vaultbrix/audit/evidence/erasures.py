"""What the events of a store say was erased, as it is found while the events are read. Pure."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from vaultbrix.audit.erasure import Dropped, Redacted, covered, dropped, dropped_early
from vaultbrix.audit.evidence.findings import Fault, Finding
from vaultbrix.audit.rows import unescaped

Detail = Mapping[str, Any]


class Erasures:
    """Take all events, then settle. What waits for its seal is told apart: the next batch has it."""

    def __init__(self) -> None:
        self.redacted, self.waiting_redacted = Redacted(), Redacted()
        self.dropped, self.waiting_dropped = Dropped(), Dropped()
        self.findings: list[Finding] = []
        self._sealed: dict[str, list[Detail]] = {"redacted": [], "expired": []}
        self._waiting: dict[str, list[Detail]] = {"redacted": [], "expired": []}

    def take(self, line: bytes, place: tuple[str, int], sealed_at: datetime | None) -> None:
        """A sealed event's COPY text line, where it stands, and when that was sealed, if known."""
        event = self._read(line)
        if event is None:
            return
        kind, detail = event
        wrong = _wrong(kind, detail)
        if wrong is None and kind == "expired" and sealed_at is not None and dropped_early(detail, sealed_at):
            self.findings.append(Finding(*place, Fault.EXPIRED_EARLY, f"{detail['part']} was dropped before its time"))
        if wrong is not None:
            self.findings.append(Finding(*place, Fault.EVENT_MALFORMED, wrong))
        else:
            self._sealed[kind].append(detail)

    def take_unsealed(self, line: bytes) -> None:
        """An event's COPY text line that no batch has yet."""
        event = self._read(line)
        if event is not None and _wrong(*event) is None:
            self._waiting[event[0]].append(event[1])

    def settle(self) -> None:
        """Work out what was erased, once all events were taken."""
        self.redacted, self.waiting_redacted = covered(self._sealed["redacted"]), covered(self._waiting["redacted"])
        self.dropped, self.waiting_dropped = dropped(self._sealed["expired"]), dropped(self._waiting["expired"])

    def _read(self, line: bytes) -> tuple[str, Detail] | None:
        _, _, kind, _, detail = line.split(b"\t")
        name = kind.decode()
        return (name, json.loads(unescaped(detail))) if name in self._sealed else None


def _wrong(kind: str, detail: Detail) -> str | None:
    try:
        if kind == "redacted":
            covered([detail])
        else:
            dropped([detail])
    except ValueError as error:
        return str(error)
    return None
