"""Decides what a PostgresServer's status says: of the server, of its agents, and of its audit record. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from vaultbrix.api.conditions import ConditionType, Reason, State, conditions, ready_states
from vaultbrix.api.orphan import Orphan
from vaultbrix.api.postgresserver import AuditAnchor, PostgresServer, PostgresServerStatus, ServerAgent
from vaultbrix.api.tenant import Tenant
from vaultbrix.runtime.errors import Blocked, Expected

# In seconds. If a clock is off by more than this, people see that rules open and end at the wrong time.
MOST_SKEW_SECONDS = 5

# Names in one message.
_SHOWN = 5


@dataclass(frozen=True)
class Renewal:
    """When an agent's Lease was last renewed, and for how long that counts."""

    at: datetime
    lasts: timedelta


def connected(agents: Sequence[ServerAgent], renewals: Mapping[str, Renewal], now: datetime) -> list[ServerAgent]:
    """The agents whose Lease runs. ``now`` is by the clock that dated the renewals."""
    return [a for a in agents if a.name in renewals and now <= renewals[a.name].at + renewals[a.name].lasts]


def agent_connected(agents: Sequence[ServerAgent], alive: Sequence[ServerAgent]) -> State:
    """What AgentConnected says of these agents, of which some are alive."""
    if alive:
        return State(True, Reason.CONNECTED, ", ".join(a.name for a in alive))
    if agents:
        names = ", ".join(a.name for a in agents)
        return State(
            False, Reason.NO_AGENT, f"no Lease of agent {names} was renewed lately; see that it runs, and its log"
        )
    return State(
        False,
        Reason.NO_AGENT,
        "no agent has reported: run `vaultbrix agent` beside PostgreSQL; until then no rule opens anything",
    )


def clock_in_sync(alive: Sequence[ServerAgent]) -> State:
    """What ClockInSync says of the agents that are alive."""
    if not alive:
        return State(None, Reason.NO_AGENT, "no agent is connected")
    off = [a for a in alive if abs(a.clock_skew_seconds) > MOST_SKEW_SECONDS]
    if not off:
        return State(
            True, Reason.IN_SYNC, f"the clocks of all agents are within {MOST_SKEW_SECONDS} s of the API server's"
        )
    skews = ", ".join(f"{a.name}'s is {_ahead(a.clock_skew_seconds)}" for a in off)
    return State(
        False,
        Reason.CLOCK_SKEW,
        f"rules open and close by the agents' clocks, and agent {skews}; run NTP on its host and on the API server's",
    )


def _ahead(seconds: int) -> str:
    return f"{abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}"


@dataclass(frozen=True)
class ServerFacts:
    """What a PostgreSQL server says of itself.

    ``pgaudit`` is the version of the pgAudit that is installed beside it, empty where its control file is missing.
    """

    version: str
    system_identifier: str
    major: int
    pgaudit: str


# By PostgreSQL's major version, the first pgAudit without the fault. Earlier ones leave an entry on their stack for a
# query that is read in parts, and the next utility command fails for it (pgaudit/pgaudit#229, #248).
_SOUND_PGAUDIT = {15: (1, 7, 1)}


def pgaudit_sound(facts: ServerFacts) -> State:
    """What PgAuditSound says: whether reads fail because they are logged, as they all are for tenants."""
    needed = _SOUND_PGAUDIT.get(facts.major)
    installed = tuple(int(part) for part in facts.pgaudit.split(".") if part.isdecimal())
    if needed is None or installed >= needed:
        return State(True, Reason.PGAUDIT_SOUND, "no fault is known of this version that breaks what tenants run")
    if not installed:
        return State(None, Reason.WAITING, "the server does not say which version of pgAudit is installed")
    first = ".".join(map(str, needed))
    return State(
        False,
        Reason.PGAUDIT_BREAKS_CURSORS,
        f'pgAudit {facts.pgaudit} makes some reads of tenants fail with "pgaudit stack is not empty": FETCH from a '
        "cursor that an IMMUTABLE function opened, and SAVEPOINT or DDL beside a query of a view or of a partitioned "
        f"table that is read a few rows at a time (JDBC's fetch size); install pgAudit {first} or later and restart "
        "PostgreSQL, or go to PostgreSQL 17 with pgAudit 17.1",
    )


@dataclass(frozen=True)
class GateReport:
    """What the operator saw of server and gate once it could reach them.

    ``version`` is the gate's migration; ``risks`` name what goes around the gate.
    """

    facts: ServerFacts
    version: int
    risks: Sequence[str]


@dataclass(frozen=True)
class ServerView:
    """All that is known of a server beside its object.

    ``agents`` are the states of the conditions about agents. ``retention`` is left out where nobody asks for any.
    ``gate`` is there unless a ``failure`` stood in the way. ``orphans`` is what the status is to list of them.
    """

    agents: Mapping[ConditionType, State | None]
    audit_flowing: State | None
    anchor: AuditAnchor | None
    retention: Mapping[ConditionType, State | None] = field(default_factory=dict)
    tenants: int = 0
    open_rules: int = 0
    gate: GateReport | None = None
    certificate: State | None = None
    no_orphans: State | None = None
    orphans: Sequence[Orphan] = ()
    admission: State | None = None
    definitions: State | None = None
    failure: Expected | None = None


@dataclass(frozen=True)
class Untrusted:
    """Why a certificate does not prove that the server has a name; ``name_missing`` if for nothing but the name."""

    why: str
    name_missing: bool


def endpoint_certificate(server: PostgresServer, untrusted: Untrusted | None) -> State:
    """What EndpointCertificate says of a server with a CA, once its certificate was looked at."""
    host = server.endpoint.host
    if untrusted is None:
        return State(True, Reason.CERTIFICATE_VALID, f"clients can check that they talk to {host}")
    if untrusted.name_missing:
        return State(
            False,
            Reason.NAME_NOT_IN_CERTIFICATE,
            f"the server's certificate does not name {host}, where tenants connect: issue one that does, or correct "
            "spec.publicEndpoint.host; until then clients check the CA alone (sslmode=verify-ca)",
        )
    return State(
        False,
        Reason.CERTIFICATE_UNTRUSTED,
        f"clients cannot check that they talk to {host}: {untrusted.why}; correct the server's certificate, or the CA "
        "in spec.tls.caSecretRef",
    )


NO_AUTHORITY = State(
    False,
    Reason.NO_CERTIFICATE_AUTHORITY,
    "clients cannot know the server: name a Secret with its CA in spec.tls.caSecretRef",
)


def server_status(server: PostgresServer, view: ServerView, now: datetime) -> PostgresServerStatus:
    """The whole status of a server; what agents say of themselves stays as they wrote it."""
    generation = server.metadata.generation
    states = {
        **view.agents,
        ConditionType.PGAUDIT_SOUND: pgaudit_sound(view.gate.facts) if view.gate else None,
        ConditionType.AUDIT_FLOWING: view.audit_flowing,
        **view.retention,
        ConditionType.GATE_INSTALLED: _installed(view.gate),
        ConditionType.GATE_INTACT: _intact(view.gate),
        ConditionType.ENDPOINT_CERTIFICATE: view.certificate,
        ConditionType.NO_ORPHANS: view.no_orphans,
        ConditionType.ADMISSION_ENFORCED: view.admission,
        ConditionType.DEFINITIONS_CURRENT: view.definitions,
        **ready_states(_ready(view.failure)),
    }
    known = (
        {}
        if view.gate is None
        else {
            "version": view.gate.facts.version,
            "system_identifier": view.gate.facts.system_identifier,
            "gate_version": view.gate.version,
        }
    )
    return server.status.model_copy(
        update={
            "observed_generation": generation,
            "tenants": view.tenants,
            "open_rules": view.open_rules,
            "audit": view.anchor,
            "orphans": list(view.orphans),
            "conditions": conditions(states, server.status.conditions, generation=generation, now=now),
            **known,
        }
    )


def tenants_remain(tenants: Sequence[Tenant]) -> Blocked:
    """Why the object of a server that is to be deleted stays, while Tenants name it."""
    names = sorted(tenant.display for tenant in tenants)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    lives = "1 Tenant lives" if len(names) == 1 else f"{len(names)} Tenants live"
    return Blocked(
        Reason.TENANTS_REMAIN,
        f"{lives} here: {', '.join(names[:_SHOWN])}{more}; the server is deleted once they are",
    )


def _installed(gate: GateReport | None) -> State | None:
    return State(True, Reason.INSTALLED, f"migration {gate.version} is in force") if gate else None


def _intact(gate: GateReport | None) -> State | None:
    if gate is None:
        return None
    if gate.risks:
        return State(False, Reason.RISKS_FOUND, "; ".join(gate.risks))
    return State(True, Reason.INTACT, "nothing goes around the gate")


def _ready(failure: Expected | None) -> State:
    if failure is not None:
        return State(False, failure.reason, failure.message)
    return State(True, Reason.READY, "tenants can be placed here")
