"""What the log shows of PostgreSQL's settings: each problem names the one to change. Pure."""

import re
from collections import OrderedDict
from collections.abc import Iterable

from vaultbrix.api.conditions import Reason
from vaultbrix.audit.flow.report import Problem
from vaultbrix.audit.records import LogLine, Record
from vaultbrix.audit.shipping.followed import OVERWRITTEN, Gap

# So many sessions one after another that lack lines they must have.
_SESSIONS = 5
_MOST_WATCHED = 1000
_TENANTS = ("tenant_", "vaultbrix_d_")
_SUPPORTED = range(15, 19)
_STARTING = re.compile(r"starting PostgreSQL (\d+)").match

_MESSAGES = {
    "verbosity": "lines without function names: set log_error_verbosity = verbose, or none is known to be genuine",
    "timezone": "times that are not UTC: set log_timezone = 'UTC'; lines with others go to quarantine",
    "duration": "statements without durations: set log_duration = on",
    "connections": "sessions that begin without a line: set log_connections = on",
    "pgaudit": "statements of tenants without lines of pgAudit's: set shared_preload_libraries = 'pgaudit' and, for"
    " each tenant's role, pgaudit.log = 'all'",
    "overwritten": "a log file was overwritten: set log_truncate_on_rotation = off, and date and time in log_filename",
}


class Symptoms:
    """What was seen last counts: a setting that is right again is no problem any more.

    Whole sessions are looked at, since nothing that a tenant can do within one makes a setting look wrong.
    """

    def __init__(self) -> None:
        self._wrong: dict[str, str] = {}
        # Sessions that were seen to begin, and the kinds of lines they had since.
        self._watched: OrderedDict[str, set[str]] = OrderedDict()
        self._lacking = {"duration": 0, "pgaudit": 0}

    def problems(self) -> tuple[Problem, ...]:
        """The settings that are wrong, each with what to change."""
        return tuple(Problem(Reason.LOG_MISCONFIGURED, message) for _, message in sorted(self._wrong.items()))

    def see(self, entry: LogLine, record: Record) -> None:
        """Take in a line that is stored; they come in the order of the log."""
        kind = record.kind
        if self._watched and (kinds := self._watched.get(record.session_id)) is not None:
            self._watch(kind, record, kinds)
        if kind == "statement":
            if self._wrong:
                for name in ("verbosity", "timezone"):
                    self._tell(name, wrong=False)
        elif kind == "forged":
            # A tenant's lines have a function too, only another one.
            if entry.func_name is None:
                self._tell("verbosity", wrong=True)
        elif kind == "connection":
            self._watched[record.session_id] = set()
            if len(self._watched) > _MOST_WATCHED:
                self._watched.popitem(last=False)
        elif entry.func_name == "PostmasterMain" and (match := _STARTING(entry.message)):
            self._version(int(match[1]))
        if entry.line_num == 1 and entry.backend_type == "client backend":
            self._tell("connections", wrong=kind not in ("connection", "authentication") and entry.user is not None)

    def malformed(self, reason: str) -> None:
        """Take in why a line is not stored as a record."""
        if reason.startswith("log_timezone"):
            self._tell("timezone", wrong=True)

    def gaps(self, gaps: Iterable[Gap]) -> None:
        """Take in gaps of the log: one tells that PostgreSQL overwrites its files."""
        if any(gap.reason == OVERWRITTEN for gap in gaps):
            self._tell("overwritten", wrong=True)

    def _watch(self, kind: str, record: Record, kinds: set[str]) -> None:
        tenant = (record.role or "").startswith(_TENANTS)
        if kind == "disconnection":
            del self._watched[record.session_id]
            if "statement" in kinds and "error" not in kinds:
                self._lack("duration", lacks="duration" not in kinds)
        # pgAudit's line comes before the duration. An empty message has only that, and an idle title.
        elif tenant and kind == "duration" and "statement" not in kinds and record.tag not in ("", "idle"):
            if "error" not in kinds and kind not in kinds:
                self._lack("pgaudit", lacks=True)
        elif tenant and kind in ("statement", "gate"):
            self._lack("pgaudit", lacks=False)
        kinds.add(kind)

    def _lack(self, name: str, *, lacks: bool) -> None:
        self._lacking[name] = self._lacking[name] + 1 if lacks else 0
        if not lacks or self._lacking[name] == _SESSIONS:
            self._tell(name, wrong=lacks)

    def _version(self, major: int) -> None:
        self._wrong.pop("version", None)
        if major not in _SUPPORTED:
            known = f"{_SUPPORTED.start} to {_SUPPORTED.stop - 1}"
            remedy = f"use {known}" if major < _SUPPORTED.start else f"upgrade Vaultbrix (this one knows {known})"
            self._wrong["version"] = f"PostgreSQL {major} writes a log that this release was not made for: {remedy}"

    def _tell(self, name: str, *, wrong: bool) -> None:
        if wrong:
            self._wrong[name] = _MESSAGES[name]
        else:
            self._wrong.pop(name, None)
