"""Condition types and reasons of every kind's ``status.conditions``, and how conditions are made and looked up."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from vaultbrix.api.meta import PART, Part, Timestamp


class ConditionType(StrEnum):
    """Types a condition can have; each has one owner that always writes it."""

    READY = "Ready"
    STALLED = "Stalled"
    # PostgresServer, Tenant
    GATE_INSTALLED = "GateInstalled"
    GATE_INTACT = "GateIntact"
    AGENT_CONNECTED = "AgentConnected"
    SOURCE_ADDRESS_PRESERVED = "SourceAddressPreserved"
    CLOCK_IN_SYNC = "ClockInSync"
    ENDPOINT_CERTIFICATE = "EndpointCertificate"
    PGAUDIT_SOUND = "PgAuditSound"
    AUDIT_FLOWING = "AuditFlowing"
    AUDIT_RETENTION_APPLIED = "AuditRetentionApplied"
    NO_ORPHANS = "NoOrphans"
    ADMISSION_ENFORCED = "AdmissionEnforced"
    DEFINITIONS_CURRENT = "DefinitionsCurrent"
    PROVISIONED = "Provisioned"
    CREDENTIALS_READY = "CredentialsReady"
    DATA_API_READY = "DataAPIReady"
    # AccessRule
    ACCEPTED = "Accepted"
    NETWORK_POLICY_APPLIED = "NetworkPolicyApplied"
    ENFORCED = "Enforced"
    LOGIN_READY = "LoginReady"
    # APIKey
    KEY_READY = "KeyReady"
    # DDLApproval
    PARSED = "Parsed"
    REHEARSED = "Rehearsed"
    DECIDED = "Decided"
    PASS_ISSUED = "PassIssued"  # noqa: S105 - a condition's name
    EXECUTED = "Executed"


class Reason(StrEnum):
    """Machine-readable cause of a condition (metav1.Condition.reason, CamelCase)."""

    READY = "Ready"
    WAITING = "Waiting"
    # dependencies
    SERVER_NOT_FOUND = "ServerNotFound"
    SERVER_NOT_READY = "ServerNotReady"
    TENANT_NOT_FOUND = "TenantNotFound"
    TENANT_NOT_READY = "TenantNotReady"
    TENANT_SUSPENDED = "TenantSuspended"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason's name
    SECRET_INVALID = "SecretInvalid"  # noqa: S105 - a reason's name
    SECRET_TAKEN = "SecretTaken"  # noqa: S105 - a reason's name
    SECRET_NOT_FOR_SERVER = "SecretNotForServer"  # noqa: S105 - a reason's name
    SLUG_TAKEN = "SlugTaken"
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    NAMESPACE_NOT_FOUND = "NamespaceNotFound"
    TOO_MANY_TENANTS = "TooManyTenants"
    DATA_RETAINED = "DataRetained"
    DEPENDENTS_REMAIN = "DependentsRemain"
    TENANTS_REMAIN = "TenantsRemain"
    FORBIDDEN = "Forbidden"
    # admission
    NOT_INSTALLED = "NotInstalled"
    POLICIES_MISSING = "PoliciesMissing"
    POLICIES_CHANGED = "PoliciesChanged"
    POLICIES_UNBOUND = "PoliciesUnbound"
    # CustomResourceDefinitions
    UP_TO_DATE = "UpToDate"
    FIELDS_MISSING = "FieldsMissing"
    # PostgreSQL
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    UNREACHABLE = "Unreachable"
    INSUFFICIENT_PRIVILEGE = "InsufficientPrivilege"
    UNSUPPORTED_VERSION = "UnsupportedVersion"
    DATABASE_ERROR = "DatabaseError"
    PGAUDIT_SOUND = "PgAuditSound"
    PGAUDIT_BREAKS_CURSORS = "PgAuditBreaksCursors"
    INSTALLED = "Installed"
    INTACT = "Intact"
    RISKS_FOUND = "RisksFound"
    NO_ORPHANS = "NoOrphans"
    ORPHANS_FOUND = "OrphansFound"
    PROVISIONED = "Provisioned"
    CERTIFICATE_VALID = "CertificateValid"
    CERTIFICATE_UNTRUSTED = "CertificateUntrusted"
    NAME_NOT_IN_CERTIFICATE = "NameNotInCertificate"
    NO_CERTIFICATE_AUTHORITY = "NoCertificateAuthority"
    CREDENTIALS_WRITTEN = "CredentialsWritten"
    # AccessRule
    ACCEPTED = "Accepted"
    AUTO_APPROVED = "AutoApproved"
    APPROVAL_NEEDED = "ApprovalNeeded"
    APPROVAL_OUTDATED = "ApprovalOutdated"
    PREFIX_TOO_WIDE = "PrefixTooWide"
    TRUSTED_SOURCE = "TrustedSource"
    TTL_TOO_LONG = "TTLTooLong"
    EXPIRED = "Expired"
    REVOKED = "Revoked"
    ENFORCED = "Enforced"
    AGENT_PENDING = "AgentPending"
    AGENT_FAILED = "AgentFailed"
    CLOSED = "Closed"
    NOT_YET = "NotYet"
    TOO_MANY_RULES = "TooManyRules"
    DEADLINE_PASSED = "DeadlinePassed"
    CLOCK_SKEW = "ClockSkew"
    KERNEL_FAILED = "KernelFailed"
    HBA_FAILED = "HbaFailed"
    SESSIONS_FAILED = "SessionsFailed"
    LOGIN_CREATED = "LoginCreated"
    LOGIN_NOT_NEEDED = "LoginNotNeeded"
    LOGIN_DROPPED = "LoginDropped"
    LOGIN_TAKEN = "LoginTaken"
    NO_AGENT = "NoAgent"
    CONNECTED = "Connected"
    NO_CONNECTIONS = "NoConnections"
    PRESERVED = "Preserved"
    NODE_ADDRESSES_ONLY = "NodeAddressesOnly"
    IN_SYNC = "InSync"
    NOT_IN_CLUSTER = "NotInCluster"
    APPLIED = "Applied"
    # data API
    SERVED = "Served"
    DISABLED = "Disabled"
    NO_DATA_API = "NoDataAPI"
    SCHEMA_TAKEN = "SchemaTaken"
    # APIKey
    KEY_WRITTEN = "KeyWritten"
    KEY_ENDED = "KeyEnded"
    ROTATED = "Rotated"
    # audit record
    FLOWING = "Flowing"
    NO_AUDIT_STORE = "NoAuditStore"
    AUDIT_STORE_UNREACHABLE = "AuditStoreUnreachable"
    AUDIT_NOT_FLOWING = "AuditNotFlowing"
    RECORD_LATE = "RecordLate"
    RECORD_ROLLED_BACK = "RecordRolledBack"
    STORE_ON_SERVER = "StoreOnServer"
    NO_SHIPPER = "NoShipper"
    LOG_MISCONFIGURED = "LogMisconfigured"
    LOG_UNREADABLE = "LogUnreadable"
    LOG_DISK_FILLING = "LogDiskFilling"
    LOG_DISK_FULL = "LogDiskFull"
    SESSIONS_UNRECORDED = "SessionsUnrecorded"
    HELD_BY_QUERY = "HeldByQuery"
    NOT_ARCHIVED = "NotArchived"
    CLOCKS_DISAGREE = "ClocksDisagree"
    # DDLApproval
    PARSED = "Parsed"
    SYNTAX_ERROR = "SyntaxError"
    NOT_SUPPORTED = "NotSupported"
    REHEARSED = "Rehearsed"
    REHEARSAL_FAILED = "RehearsalFailed"
    NOT_POSSIBLE = "NotPossible"
    EFFECT_GREW = "EffectGrew"
    INTERRUPTED = "Interrupted"
    UNDECIDED = "Undecided"
    APPROVED = "Approved"
    DENIED = "Denied"
    SELF_APPROVAL = "SelfApproval"
    OUTDATED_DECISION = "OutdatedDecision"
    DECISION_UNGUARDED = "DecisionUnguarded"
    ISSUED = "Issued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    STATEMENT_FAILED = "StatementFailed"
    JOB_FAILED = "JobFailed"


@dataclass(frozen=True, slots=True, kw_only=True, config=PART)
class Condition(Part):
    """One condition, of the shape of metav1.Condition (Kubernetes API conventions)."""

    type: str = Field(max_length=316)
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(max_length=1024, min_length=1)
    message: str = Field(default="", max_length=32768)
    observed_generation: int = 0
    last_transition_time: Timestamp


class State(NamedTuple):
    """What a condition says; ``status`` None stands for Unknown."""

    status: bool | None
    reason: Reason
    message: str


# Reasons of a Ready that is not True for which nothing goes on until somebody changes something: the object, what it
# names, or a decision on it. For all others, what is waited for comes by itself, or is an object that may be on its
# way, as when all of a folder is applied at once.
LASTING = frozenset(
    {
        Reason.TENANT_SUSPENDED,
        Reason.SECRET_INVALID,
        Reason.SECRET_TAKEN,
        Reason.SECRET_NOT_FOR_SERVER,
        Reason.SLUG_TAKEN,
        Reason.NAMESPACE_NOT_ALLOWED,
        Reason.TOO_MANY_TENANTS,
        Reason.DATA_RETAINED,
        Reason.DEPENDENTS_REMAIN,
        Reason.TENANTS_REMAIN,
        Reason.FORBIDDEN,
        Reason.AUTHENTICATION_FAILED,
        Reason.INSUFFICIENT_PRIVILEGE,
        Reason.UNSUPPORTED_VERSION,
        Reason.APPROVAL_NEEDED,
        Reason.APPROVAL_OUTDATED,
        Reason.LOGIN_TAKEN,
        Reason.UNDECIDED,
        Reason.DECISION_UNGUARDED,
    }
)


def ready_states(ready: State) -> dict[ConditionType, State]:
    """Ready, and beside it Stalled while only a change by somebody makes Ready True.

    Stalled is there only while it is True, as kstatus has it (sigs.k8s.io/cli-utils, pkg/kstatus): so a condition that
    is not True always names something that is lacking.
    """
    return (
        failed_states(ready) if ready.status is not True and ready.reason in LASTING else {ConditionType.READY: ready}
    )


def failed_states(ready: State) -> dict[ConditionType, State]:
    """Ready and Stalled of an object that will never come to what it was made for."""
    return {ConditionType.READY: ready, ConditionType.STALLED: State(True, ready.reason, ready.message)}


def condition(
    type_: ConditionType, state: State, *, generation: int, now: datetime, previous: Iterable[Condition] = ()
) -> Condition:
    """A condition whose ``lastTransitionTime`` moves only when the status flips."""
    text: Literal["True", "False", "Unknown"] = (
        "Unknown" if state.status is None else "True" if state.status else "False"
    )
    old = find_condition(previous, type_)
    return Condition(
        type=str(type_),
        status=text,
        reason=str(state.reason),
        message=state.message[:4096],
        observed_generation=generation,
        last_transition_time=old.last_transition_time if old is not None and old.status == text else now,
    )


def conditions(
    states: Mapping[ConditionType, State | None], previous: Iterable[Condition], *, generation: int, now: datetime
) -> list[Condition]:
    """The conditions of one owner, in the order of ``states``.

    None leaves a condition as it was, and Unknown where there was none.
    """
    previous = list(previous)
    built = []
    for type_, state in states.items():
        old = find_condition(previous, type_)
        if state is None and old is not None:
            built.append(old)
        else:
            new = state or State(None, Reason.WAITING, "not known yet")
            built.append(condition(type_, new, generation=generation, now=now, previous=previous))
    return built


def find_condition(present: Iterable[Condition], type_: ConditionType) -> Condition | None:
    """The condition of that type, of which an object has one at most; None where nobody has reported it yet."""
    return next((one for one in present if one.type == type_), None)


def is_true(present: Iterable[Condition], type_: ConditionType) -> bool:
    """Whether the condition of that type is present and True."""
    present_condition = find_condition(present, type_)
    return present_condition is not None and present_condition.status == "True"


def is_false(present: Iterable[Condition], type_: ConditionType) -> bool:
    """Whether the condition of that type is present and False."""
    present_condition = find_condition(present, type_)
    return present_condition is not None and present_condition.status == "False"


class StatusPart(NamedTuple):
    """What one field manager owns of a status, where the rest is another's.

    ``types`` are all conditions that it ever writes; ``fields`` those beside them, by their names in the manifest, None
    for one that is to be absent. No condition and no field: what it wrote is taken away.
    """

    manager: str
    types: frozenset[ConditionType]
    conditions: Sequence[Condition]
    fields: Mapping[str, object]
