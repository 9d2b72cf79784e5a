"""DDLApproval: destructive DDL that an admin approves, byte for byte, and that runs once."""

from datetime import timedelta
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from vaultbrix.api.conditions import Condition
from vaultbrix.api.crd import Column, CustomResource, cel, list_map
from vaultbrix.api.meta import ApiModel, Duration, LocalRef, Person, ReasonText, Resource, Timestamp

MAX_SQL_BYTES = 256 * 1024
MAX_STATEMENTS = 200


class Verdict(StrEnum):
    """An admin's answer."""

    APPROVED = "Approved"
    DENIED = "Denied"


class Decision(ApiModel):
    """An admin's answer to exactly one text."""

    verdict: Verdict
    by: Person = Field(description="Who decides; never the requester.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        max_length=64,
        description="status.sha256 as it was shown: the decision holds for that text only.",
    )
    message: str = Field(default="", max_length=1024)


class DDLApprovalSpec(ApiModel):
    """The text, who asks and why. Everything but the decision is immutable."""

    tenant_ref: LocalRef = Field(description="The Tenant of the same namespace that the text runs as.")
    sql: str = Field(min_length=1, max_length=MAX_SQL_BYTES, description="Statements separated by semicolons.")
    reason: ReasonText = Field(description="Why the change is needed, for the record.")
    requested_by: Person = Field(description="Who asks for the change.")
    valid_for: Duration = Field(
        default=timedelta(hours=1), description="How long the approval lasts, from the moment it is accepted."
    )
    lock_timeout: Duration = Field(
        default=timedelta(seconds=5), description="lock_timeout of the session that runs the text."
    )
    statement_timeout: Duration = Field(
        default=timedelta(minutes=10), description="statement_timeout of the session that runs the text."
    )
    decision: Decision | None = Field(
        default=None,
        description="Written once, by an admin.",
        json_schema_extra=cel(("self == oldSelf", "is written once; create another DDLApproval")),
    )


class ApprovalPhase(StrEnum):
    """Where an approval is in its life; the last five are final."""

    PENDING = "Pending"
    APPROVED = "Approved"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    DENIED = "Denied"
    EXPIRED = "Expired"
    INVALID = "Invalid"


FINAL_PHASES = frozenset(
    {
        ApprovalPhase.SUCCEEDED,
        ApprovalPhase.FAILED,
        ApprovalPhase.DENIED,
        ApprovalPhase.EXPIRED,
        ApprovalPhase.INVALID,
    }
)


class StatementSummary(ApiModel):
    """One statement of the text as PostgreSQL's own parser reads it."""

    position: int = Field(description="1-based place in the text.")
    tag: str = Field(max_length=64)
    gated: bool = Field(description="Whether the gate in the database asks for a pass.")
    sql: str = Field(max_length=1024, description="The statement as deparsed from its tree, shortened.")


class ExecutionError(ApiModel):
    """How a run failed."""

    sqlstate: str = Field(default="", max_length=5)
    message: str = Field(max_length=1024)
    statement: int = Field(default=0, description="1-based place of the failing statement; 0 when none failed.")


class DDLApprovalStatus(ApiModel):
    """What holds now. Written by the operator."""

    observed_generation: int = -1
    phase: ApprovalPhase | None = None
    sha256: str | None = Field(default=None, max_length=64)
    statements: list[StatementSummary] = Field(default=[], max_length=MAX_STATEMENTS)
    decided_at: Timestamp | None = None
    expires_at: Timestamp | None = None
    job_name: str | None = Field(default=None, max_length=63)
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    error: ExecutionError | None = None
    conditions: list[Condition] = Field(default=[], max_length=16, json_schema_extra=list_map("type"))


_IMMUTABLE = ("tenantRef", "sql", "reason", "requestedBy", "validFor", "lockTimeout", "statementTimeout")


class DDLApproval(Resource):
    """A text of DDL that runs as the tenant, once, after an admin approved exactly it."""

    spec: DDLApprovalSpec
    status: DDLApprovalStatus = DDLApprovalStatus()

    crd: ClassVar[CustomResource] = CustomResource(
        kind="DDLApproval",
        plural="ddlapprovals",
        singular="ddlapproval",
        short_names=("ddl",),
        namespaced=True,
        columns=(
            Column("Tenant", ".spec.tenantRef.name"),
            Column("Phase", ".status.phase"),
            Column("Requested-By", ".spec.requestedBy"),
            Column("Decided-By", ".spec.decision.by"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        spec_rules=(
            *((f"self.{field} == oldSelf.{field}", f"{field} is immutable") for field in _IMMUTABLE),
            ("!has(oldSelf.decision) || has(self.decision)", "decision is written once"),
            ("duration(self.validFor) >= duration('1s')", "validFor must be at least 1s"),
            ("duration(self.lockTimeout) >= duration('1s')", "lockTimeout must be at least 1s"),
            ("duration(self.statementTimeout) >= duration('1s')", "statementTimeout must be at least 1s"),
        ),
    )
