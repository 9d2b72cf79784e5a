"""Whether the audit record flows, and whether direct access may be open while it does not. Pure.

Two witnesses: the agent beside PostgreSQL reads what the shipper says in flow.json; the operator asks the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.meta import format_duration, rfc3339
from vaultbrix.api.postgresserver import AgentAudit, AuditAnchor, PostgresServerSpec
from vaultbrix.audit.flow.report import Flow, Head

# A record that is later than this does not keep up.
LATE_SECONDS = 30.0
# A shipper writes flow.json every second.
QUIET_SECONDS = 15.0
# Without an agent's word. The operator's own connections leave a line in the log every minute.
STORE_LATE = timedelta(minutes=5)
# What was found so long ago is not news any more.
RECENT = timedelta(hours=24)

# The record still flows; it will not for long. Told after what keeps it from flowing.
_WARNINGS = frozenset({Reason.LOG_DISK_FILLING})
# Why a record may be late.
_CAUSES = {
    Reason.AUDIT_STORE_UNREACHABLE: "the shipper cannot store it",
    Reason.LOG_UNREADABLE: "the shipper cannot read the log",
}


@dataclass(frozen=True)
class Sight:
    """flow.json as an agent sees it. ``quiet``: seconds since it last changed; ``trouble``: why there is no flow."""

    flow: Flow | None
    quiet: float = 0.0
    trouble: str = ""


def late_seconds(sight: Sight) -> float:
    """How late the record may be by now, in seconds; endless where nobody says."""
    return float("inf") if sight.flow is None else sight.flow.late_seconds + sight.quiet


def witness(sight: Sight) -> State:
    """What an agent has to say: status, reason, message. The message holds nothing that changes every second."""
    flow = sight.flow
    if flow is None:
        return State(
            False,
            Reason.NO_SHIPPER,
            f"{sight.trouble}; run `vaultbrix audit ship --flow FILE` beside PostgreSQL and `vaultbrix agent "
            "--flow-file FILE` with the same file",
        )
    if sight.quiet > QUIET_SECONDS:
        return State(
            False, Reason.NO_SHIPPER, f"no shipper has run since {rfc3339(flow.at)}; see `vaultbrix audit ship`"
        )
    problems = sorted(flow.problems, key=lambda problem: problem.reason in _WARNINGS)
    if late_seconds(sight) > LATE_SECONDS:
        since = f"the record is complete only until {rfc3339(flow.complete_until or flow.at)}"
        for problem in problems:
            if problem.reason in _CAUSES:
                return State(False, problem.reason, f"{since}; {_CAUSES[problem.reason]}: {problem.message}")
        return State(
            False, Reason.RECORD_LATE, f"{since}; see the shipper's log, its CPU limit, and the load of the store"
        )
    for problem in problems:
        # A store that is away for a moment makes nothing late; the log on disk waits.
        if problem.reason is not Reason.AUDIT_STORE_UNREACHABLE:
            return State(False, problem.reason, problem.message)
    return State(True, Reason.FLOWING, "all that PostgreSQL has logged is stored")


def flows(witnessed: State) -> bool:
    """Whether what a session does now gets on record. Nobody knows that where the log may have no room for it soon."""
    return witnessed.status is True


@dataclass(frozen=True)
class Guard:
    """Whether direct access may be open. ``since``: up to when the record is known to be complete, in seconds of a
    clock that is never set; ``held``: access is held back until the record flows again."""

    since: float
    held: bool = False


def guard(before: Guard, sight: Sight, required: timedelta | None, now: float) -> Guard:
    """The next state; ``required`` is how long the record may not flow, None: for ever.

    What was held back opens only when the record is seen to flow, so no clock and no restart opens it.
    """
    flowing = flows(witness(sight))
    since = max(before.since, now - late_seconds(sight)) if flowing else before.since
    if required is None:
        return Guard(since)
    if flowing:
        return Guard(since)
    return replace(before, held=before.held or now - since > required.total_seconds())


def held_back(witnessed: State, required: timedelta) -> str:
    """Why a rule does not open, or was closed before its deadline."""
    since = f"the audit record has not flowed for {format_duration(required)}"
    if witnessed.reason is Reason.LOG_DISK_FULL:
        since = "PostgreSQL's log has too little room"
    return (
        f"spec.auditRequired of the PostgresServer: nothing is open while {since}; "
        f"{witnessed.reason}: {witnessed.message}"
    )


@dataclass(frozen=True)
class StoreSeen:
    """What the store holds of a server.

    ``latest`` is its last batch, None where there is none. ``anchored_batch`` is the batch that status.audit named when
    the store was asked (0: none), ``anchored_head`` the hash of that batch's header in the store (hex; empty where the
    store has no such batch). ``gaps`` and ``quarantined`` are counts of what was found within RECENT.
    ``system_identifier`` is that of the PostgreSQL that the store is on.
    """

    latest: Head | None
    anchored_batch: int = 0
    anchored_head: str = ""
    gaps: int = 0
    quarantined: int = 0
    system_identifier: str = ""


@dataclass(frozen=True)
class StoreFailed:
    """The operator cannot ask the store, for that reason."""

    message: str
    reason: Reason = Reason.AUDIT_STORE_UNREACHABLE


def rolled_back(seen: StoreSeen, anchor: AuditAnchor | None) -> bool:
    """Whether the store no longer holds what it held when the anchor was set."""
    return anchor is not None and seen.anchored_batch == anchor.batch and seen.anchored_head != anchor.head


def next_anchor(seen: StoreSeen, anchor: AuditAnchor | None) -> AuditAnchor | None:
    """The anchor to keep; it never moves backwards, nor to a store that does not hold the one before."""
    latest = seen.latest
    if latest is None:
        return anchor
    if anchor is not None and (
        latest.batch <= anchor.batch or (seen.anchored_batch, seen.anchored_head) != (anchor.batch, anchor.head)
    ):
        return anchor
    return AuditAnchor(batch=latest.batch, head=latest.head, sealed_at=latest.sealed_at)


def audit_flowing(
    spec: PostgresServerSpec,
    agents: Sequence[AgentAudit],
    store: StoreSeen | StoreFailed | None,
    anchor: AuditAnchor | None,
    now: datetime,
    system_identifier: str | None = None,
) -> State | None:
    """Status, reason and message of AuditFlowing; None: not known yet, what held goes on to hold.

    ``agents`` are the words of the agents that are connected, ``store`` is None while it was not asked.
    ``system_identifier`` is the audited server's, None while it is not known.
    """
    if isinstance(store, StoreSeen) and rolled_back(store, anchor):
        assert anchor is not None
        return State(
            False,
            Reason.RECORD_ROLLED_BACK,
            f"the store does not hold batch {anchor.batch} with the head in status.audit: it was put back to an "
            "earlier state or replaced; compare it with a backup, find out who did, and then clear status.audit",
        )
    for agent in agents:
        if not agent.flowing:
            closed = "; direct access is closed until it flows (spec.auditRequired)" if agent.closed else ""
            return State(False, _reason(agent.reason), agent.message + closed)
    agents_tell = bool(agents)
    if isinstance(store, StoreSeen) and system_identifier and store.system_identifier == system_identifier:
        return State(
            False,
            Reason.STORE_ON_SERVER,
            "the store is a database of the server that it audits (same system identifier): whoever rules that server "
            "rules its record, both are lost together, and each batch that is stored is logged and makes the next; "
            "give the store a PostgreSQL of its own (spec.auditSecretRef, and the shipper's Secret)",
        )
    match store:
        case StoreSeen(latest=None):
            return State(False, Reason.NO_SHIPPER, "the store holds nothing of this server; run `vaultbrix audit ship`")
        case StoreSeen(latest=Head(sealed_at=at)):
            if not agents_tell and now - at > STORE_LATE:
                return State(
                    False, Reason.RECORD_LATE, f"the store's latest batch is of {rfc3339(at)}; see the shipper's log"
                )
            return State(True, Reason.FLOWING, _with_findings("all that PostgreSQL has logged is stored", store))
        case StoreFailed(message=message, reason=Reason.SECRET_NOT_FOR_SERVER as reason) if agents_tell:
            return State(None, reason, f"the agent says that it flows, and nobody asks the store: {message}")
        case StoreFailed(message=message) if agents_tell:
            return State(True, Reason.FLOWING, f"so says the agent; the operator cannot ask the store: {message}")
        case StoreFailed(message=message, reason=reason):
            return State(False, reason, f"the operator cannot ask the store: {message}")
    if spec.audit_secret_ref is None:
        if agents_tell:
            return State(
                True, Reason.FLOWING, "so says the agent; spec.auditSecretRef is not set, so nobody asks the store"
            )
        return State(None, Reason.NO_AUDIT_STORE, "no agent tells (--flow-file), and spec.auditSecretRef is not set")
    return None


def _reason(text: str) -> Reason:
    # An agent may be of another release.
    return next((reason for reason in Reason if reason == text), Reason.AUDIT_NOT_FLOWING)


def _with_findings(text: str, seen: StoreSeen) -> str:
    counts = [
        f"{name} {number}" for number, name in ((seen.gaps, "gaps"), (seen.quarantined, "quarantined lines")) if number
    ]
    return f"{text}; in the last {format_duration(RECENT)}: {', '.join(counts)}" if counts else text
