"""DDLApproval: destructive DDL that an admin approves, byte for byte, and that runs once."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from vaultbrix.api.conditions import Condition
from vaultbrix.api.crd import Column, CustomResource, cel, list_map
from vaultbrix.api.meta import ApiModel, Duration, LocalRef, Person, ReasonText, Resource, Timestamp
from vaultbrix.api.trail import Trail

MAX_SQL_BYTES = 256 * 1024
MAX_STATEMENTS = 200


class Verdict(StrEnum):
    """An admin's answer."""

    APPROVED = "Approved"
    DENIED = "Denied"


class Execution(StrEnum):
    """Who sends the approved text."""

    JOB = "Job"
    SESSION = "Session"


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
    allow_nested: bool = Field(
        default=False,
        description="Let functions, DO blocks and triggers that the text calls drop and alter too. What they do "
        "may change after the approval.",
    )


class DDLApprovalSpec(ApiModel):
    """The text, who asks and why. Everything but the decision is immutable."""

    tenant_ref: LocalRef = Field(description="The Tenant of the same namespace that the text runs as.")
    sql: str = Field(min_length=1, max_length=MAX_SQL_BYTES, description="Statements separated by semicolons.")
    reason: ReasonText = Field(description="Why the change is needed, for the record.")
    requested_by: Person = Field(description="Who asks for the change.")
    execution: Execution = Field(
        default=Execution.JOB,
        description="Job: a Job runs the text as the tenant. Session: the tenant sends it itself, once, while the "
        "approval lasts.",
    )
    valid_for: Duration = Field(
        default=timedelta(hours=1),
        description="How long the approval lasts, from the moment it is accepted: at most 720h.",
    )
    lock_timeout: Duration = Field(
        default=timedelta(seconds=5), description="lock_timeout of the session that runs the text: at most 10m."
    )
    statement_timeout: Duration = Field(
        default=timedelta(minutes=10), description="statement_timeout of the session that runs the text: at most 24h."
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


class Danger(StrEnum):
    """The worst that a statement does to what is there already."""

    NONE = "None"
    INDEX = "Index"
    CONSTRAINT = "Constraint"
    CODE = "Code"
    DATA = "Data"
    COLUMN = "Column"
    TABLE = "Table"
    UNKNOWN = "Unknown"


ObjectName = Annotated[str, Field(max_length=255)]
Note = Annotated[str, Field(max_length=255)]


class StatementSummary(ApiModel):
    """One statement of the text as PostgreSQL's own parser reads it."""

    position: int = Field(description="1-based place in the text.")
    line: int = Field(default=0, description="1-based line of spec.sql in which it begins.")
    tag: str = Field(max_length=64)
    gated: bool = Field(description="Whether the gate in the database asks for a pass.")
    sql: str = Field(max_length=1024, description="The statement as deparsed from its tree, shortened.")
    objects: list[ObjectName] = Field(default=[], max_length=32, description="What it names, as written.")
    danger: Danger = Field(default=Danger.UNKNOWN, description="What is lost.")
    rewrites: bool = Field(default=False, description="Whether it may rewrite a whole table.")
    lock: str = Field(default="", max_length=64, description="The strongest lock on a table, as PostgreSQL names it.")
    transactional: bool = Field(default=True, description="Whether it may run inside a transaction.")
    additive: bool = Field(default=False, description="Whether it only adds; see the Tenant's ddlPolicy.")
    notes: list[Note] = Field(default=[], max_length=16, description="What an approver should know besides.")


class LockTaken(ApiModel):
    """A lock on a table that stood there before."""

    object: ObjectName
    mode: str = Field(max_length=64)


class Affected(ApiModel):
    """A table that the text drops, empties, alters or rewrites, as it was before."""

    object: ObjectName
    rows: int = Field(description="As the planner estimates; -1 when it was never analysed.")
    bytes: int
    rewritten: bool = False


class Rehearsal(ApiModel):
    """What the text did when it was run as the tenant in a transaction that was rolled back."""

    possible: bool = Field(description="False for what cannot be rolled back; see message.")
    at: Timestamp
    duration_ms: int = 0
    drops: list[ObjectName] = Field(
        default=[], max_length=512, description="All that would be dropped or emptied, what CASCADE takes along too."
    )
    others: list[ObjectName] = Field(
        default=[], max_length=64, description="Those of drops that belong to somebody else: CASCADE takes them along."
    )
    locks: list[LockTaken] = Field(default=[], max_length=64)
    affected: list[Affected] = Field(default=[], max_length=64)
    effect_sha256: str = Field(default="", max_length=64, description="Hash of drops; a run that drops more fails.")
    nested: bool = Field(
        default=False,
        description="Whether a function, DO block or trigger drops or alters: a run refuses that unless "
        "decision.allowNested is true.",
    )
    used_up_to: int | None = Field(
        default=None, ge=0, description="1-based place of the last statement that used the approval; 0 when none did."
    )
    error: "ExecutionError | None" = None
    message: str = Field(default="", max_length=1024)


class Progress(ApiModel):
    """How far a run is."""

    statement: int = Field(description="1-based place of the statement that runs.")
    of: int
    phase: str = Field(default="", max_length=128, description="As PostgreSQL's pg_stat_progress_* views say.")
    percent: int | None = Field(default=None, ge=0, le=100)


class ExecutionError(ApiModel):
    """How a run failed."""

    sqlstate: str = Field(default="", max_length=5)
    message: str = Field(max_length=1024)
    statement: int = Field(default=0, description="1-based place of the failing statement; 0 when none failed.")
    line: int = Field(default=0, description="1-based line of spec.sql in which that statement begins; 0 for none.")

    @property
    def place(self) -> str:
        """Where in the text it failed, in words; empty when at no statement."""
        at = f", line {self.line}" if self.line else ""
        return f"statement {self.statement}{at}" if self.statement else ""

    @property
    def in_one_line(self) -> str:
        """Place, SQLSTATE and message."""
        place = f"{self.place}: " if self.place else ""
        return f"{place}{self.sqlstate} {self.message}".strip() if self.sqlstate else f"{place}{self.message}"

    @property
    def by_gate(self) -> bool:
        """Whether the gate refused it for want of a pass."""
        return self.sqlstate == "VBX01"


class DDLApprovalStatus(ApiModel):
    """The approval as it is now. Written by the operator."""

    observed_generation: int = -1
    phase: ApprovalPhase | None = None
    sha256: str | None = Field(default=None, max_length=64)
    statements: list[StatementSummary] = Field(default=[], max_length=MAX_STATEMENTS)
    decided_at: Timestamp | None = None
    expires_at: Timestamp | None = None
    rehearsal: Rehearsal | None = None
    progress: Progress | None = None
    executed: int = Field(default=0, description="How many statements have taken effect for good.")
    job_name: str | None = Field(default=None, max_length=63)
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    error: ExecutionError | None = None
    trail: Trail | None = Field(default=None, description="What the audit store is to be told of it.")
    conditions: list[Condition] = Field(default=[], max_length=16, json_schema_extra=list_map("type"))


_IMMUTABLE = ("tenantRef", "sql", "reason", "requestedBy", "execution", "validFor", "lockTimeout", "statementTimeout")

# A forgotten approval must end; who waits for a lock holds up all who come later; a run holds what it took.
_LONGEST = {"validFor": "720h", "lockTimeout": "10m", "statementTimeout": "24h"}


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
            *(
                (f"duration(self.{field}) {operator} duration('{bound}')", f"{field} must be at {which} {bound}")
                for field, longest in _LONGEST.items()
                for operator, bound, which in ((">=", "1s", "least"), ("<=", longest, "most"))
            ),
        ),
    )

    @property
    def tenant_key(self) -> tuple[str, str]:
        """(namespace, name) of the Tenant that the text runs as."""
        return (self.metadata.namespace, self.spec.tenant_ref.name)
