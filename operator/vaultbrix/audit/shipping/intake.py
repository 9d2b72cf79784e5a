"""A batch of lines → the rows of the store: who was behind each, how long it is kept, what is odd about it. Pure."""

import re
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise

from vaultbrix.audit import rows
from vaultbrix.audit.records import (
    MalformedLine,
    Record,
    address_of,
    decoded,
    is_data_api,
    minute_of,
    numbered,
    record_of,
    timestamp,
)
from vaultbrix.audit.shipping.approvals import Approvals, RecallApproval, no_approval
from vaultbrix.audit.shipping.followed import Batch, Gap, cut_short
from vaultbrix.audit.shipping.keeping import Keeping
from vaultbrix.audit.shipping.logfile import HEAD_BYTES, LONGEST_LINE
from vaultbrix.audit.shipping.numbers import Seen
from vaultbrix.audit.shipping.requests import Recall, Requests, nothing_stored
from vaultbrix.audit.shipping.sealing import Content, Quarantined
from vaultbrix.audit.shipping.symptoms import Symptoms
from vaultbrix.audit.shipping.volume import Minute, Volume
from vaultbrix.grants.state import AgentState, Attribution

# Of what is longer, no more is held than needed at a time.
_LONG_BYTES = 256 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONTINUATION = bytes(range(0x80, 0xC0))
_ASTRAL = re.compile(rb"[\xf0-\xf7]").search
# Who is behind logins of the data API, until a request says it; known by its identity.
_SOME_CALLER = Attribution()


class Intake:
    """Takes in one server's lines, in the order in which its sessions wrote them."""

    def __init__(self, server: str, volume: Volume | None = None) -> None:
        self.keeping = Keeping({})
        self._volume = volume or Volume()
        self.symptoms = Symptoms()
        self._server = server
        self._requests = Requests()
        self._approvals = Approvals()

    def resume(self) -> None:
        """Go on from what the store holds."""
        self._requests.forget()
        self._approvals.forget()

    def take(
        self,
        batch: Batch,
        state: AgentState,
        recall: Recall = nothing_stored,
        recall_approval: RecallApproval = no_approval,
    ) -> tuple[Content, list[Seen]]:
        """The rows of a batch, and the sessions' line numbers in it. What is recalled is asked of the store."""
        self._approvals.begin_batch()
        people = _People(state)
        records: list[tuple[Record, bytes]] = []
        damaged = [Quarantined(batch.file, position, line, reason) for position, line, reason in batch.damaged]
        content = Content(records, batch.gaps, damaged)
        seen: list[Seen] = []
        days, see, file, server = self.keeping.days, self.symptoms.see, batch.file, self._server
        lines = batch.lines
        written: dict[Minute, int] = defaultdict(int)
        roles: dict[str, str] = {}
        for head, length in batch.long:
            if (number := numbered(head)) and (minute := minute_of(head)):
                written[number[0], minute] += length
        # By index: an iterator would hold a long line for longer than it is needed.
        for index in range(len(lines)):
            position, line = lines[index]
            length = len(line)
            try:
                if length > _LONG_BYTES and _text_bytes(line) > LONGEST_LINE:
                    raise MalformedLine("too long")
                entry = decoded(line)
                if length > _LONG_BYTES:
                    line = line[:HEAD_BYTES]
                    lines[index] = (position, line)
                who = people.behind(entry.user or "", entry.remote_host, timestamp(entry.timestamp))
                record = record_of(entry, server, who)
                if who is _SOME_CALLER:
                    self._requests.attribute(record, recall)
                elif self._approvals.concern(record):
                    self._approvals.attribute(record, records, state, recall_approval)
                record.file, record.position = file, position
                record.keep = days(record)
                row = rows.record_line(record)
            except MalformedLine as error:
                set_aside(content, file, position, line, length, str(error))
                self.symptoms.malformed(str(error))
                if number := numbered(line):
                    if minute := minute_of(line):
                        written[number[0], minute] += length
                    seen.append((*number, position))
                    self._requests.lost(*number)
                continue
            see(entry, record)
            written[entry.session_id, entry.timestamp[:16]] += length
            if entry.user is not None:
                roles[entry.session_id] = entry.user
            if length > _LONG_BYTES:
                record.statement = record.message = None
            records.append((record, row))
            seen.append((record.session_id, record.line_num, position))
        self.symptoms.gaps(batch.gaps)
        self._volume.add(written, roles, time.monotonic())
        return content, seen


def set_aside(content: Content, file: str, position: int, line: bytes, length: int, reason: str) -> None:
    """Put a line of so many bytes into quarantine; of a long one the beginning, and a gap tells."""
    if length > _LONG_BYTES:
        line = line[:HEAD_BYTES]
        content.gaps = [*content.gaps, cut_short(file, position, length, len(line))]
    content.quarantined = [*content.quarantined, Quarantined(file, position, line, reason)]


def without(content: Content, batch: Batch, refused: Mapping[int, str]) -> Content:
    """The same, but with the records at these places in quarantine for the store's SQLSTATE."""
    lines = dict(batch.lines)
    # A line ends where the next begins; what is damaged stands alone.
    ends = dict(pairwise([*lines, batch.stop]))
    kept = [pair for index, pair in enumerate(content.records) if index not in refused]
    remaining = replace(content, records=kept)
    for index, state in sorted(refused.items()):
        at = content.records[index][0].position
        reason = f"the store refuses it: SQLSTATE {state}"
        set_aside(remaining, batch.file, at, lines[at], ends[at] - at - 1, reason)
    return remaining


def anew(
    content: Content, batch: Batch, stored: Mapping[tuple[str, int], bytes | None], suspects: Collection[str]
) -> Content:
    """The same, but without lines that are stored already, given their hashes in the store (None: erased).

    A line that has the number of another one and not its text goes to quarantine.
    """
    known = dict(stored)
    lines: dict[int, bytes] = {}
    kept: list[tuple[Record, bytes]] = []
    remaining = replace(content, records=kept)
    for record, row in content.records:
        key = (record.session_id, record.line_num)
        if key not in known:
            kept.append((record, row))
            if record.session_id in suspects:
                known[key] = _content(record)
            continue
        before = known[key]
        if before is None or before == _content(record) or _is_long(record):
            continue
        lines = lines or dict(batch.lines)
        line = lines[record.position]
        set_aside(remaining, batch.file, record.position, line, len(line), "another line has its number")
    return remaining


def not_yet_aside(content: Content, stored: Collection[tuple[int, bytes | None]]) -> Content:
    """The same, but without what is in quarantine already, given places there with their hashes (None: erased).

    What was erased must not come back, and cannot be told from another line in its place: a gap tells.
    """
    known = set(stored)
    again = {bad.position for bad in content.quarantined if (bad.position, sha256(bad.line).digest()) in known}
    erased = [bad for bad in content.quarantined if (bad.position, None) in known and bad.position not in again]
    left = again.union(bad.position for bad in erased)
    gaps = [gap for gap in content.gaps if not (gap.cut_short and gap.position in left)]
    gaps += [Gap(bad.file, bad.position, "a line that is no record stands where one was erased") for bad in erased]
    aside = [bad for bad in content.quarantined if bad.position not in left]
    return replace(content, gaps=gaps, quarantined=aside)


def _is_long(record: Record) -> bool:
    # Its texts were let go.
    return record.statement is None and record.message is None


def _content(record: Record) -> bytes:
    """Hash of a record's time and texts, as the store's function audit.stored_lines computes it."""
    at = (record.at - _EPOCH) // timedelta(microseconds=1)
    return sha256(f"{at}\n{record.statement or ''}\n{record.message or ''}".encode()).digest()


def _text_bytes(line: bytes) -> int:
    """Bytes that a line takes in memory as a str, where the widest character decides what each takes."""
    width = 1 if line.isascii() else 4 if _ASTRAL(line) else 2
    return width * len(line.translate(None, _CONTINUATION)) if width > 1 else len(line)


class _People:
    """Who was behind roles and addresses, as one state of the agent's has it."""

    def __init__(self, state: AgentState) -> None:
        self._state = state
        self._known: dict[tuple[str, str | None], tuple[list[datetime], dict[int, Attribution]]] = {}

    def behind(self, role: str, remote: str | None, at: datetime) -> Attribution:
        known = self._known.get((role, remote))
        if known is None:
            known = ([], {0: _SOME_CALLER}) if is_data_api(role) else (self._state.attribution_changes(role), {})
            self._known[role, remote] = known
        turns, attributions = known
        span = bisect_right(turns, at)
        who = attributions.get(span)
        if who is None or (span and turns[span - 1] == at):
            who = self._state.attribute(role, address_of(remote)[1], at)
            # Between two turns it stays; at one of them it may be either.
            if not span or turns[span - 1] != at:
                attributions[span] = who
        return who
