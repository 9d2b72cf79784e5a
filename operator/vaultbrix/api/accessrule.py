"""AccessRule: an address may connect as a tenant until a deadline."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from vaultbrix.api.conditions import Condition
from vaultbrix.api.crd import Column, CustomResource, cel, list_map
from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.api.meta import PART, ApiModel, Duration, LocalRef, Part, Person, ReasonText, Resource, Timestamp
from vaultbrix.api.trail import Trail

Cidr = Annotated[
    str,
    Field(
        max_length=43,
        json_schema_extra=cel(
            (
                "isCIDR(self) && string(cidr(self).masked()) == self",
                "must be a CIDR in canonical form, without host bits, such as 203.0.113.7/32 or 2001:db8::/64",
            ),
            ("!isCIDR(self) || cidr(self).prefixLength() > 0", "must not cover every address"),
        ),
    ),
]


class RuleLogin(StrEnum):
    """As which role the addresses may log in."""

    TENANT = "Tenant"
    PER_RULE = "PerRule"


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True, config=PART)
class AccessDecision(Part):
    """An approver's answer to exactly what a rule gives."""

    verdict: Verdict
    by: Person = Field(description="Who decides; never the requester.")
    sha256: Sha256 = Field(description="status.sha256 as it was shown: the decision holds for exactly that.")
    message: str = Field(default="", max_length=1024)


class AccessRuleSpec(ApiModel):
    """The access that a rule asks for: who, from where, until when, and why."""

    tenant_ref: LocalRef = Field(
        description="The Tenant of the same namespace that may be logged in as.",
        json_schema_extra=cel(("self == oldSelf", "is immutable; create another AccessRule")),
    )
    cidrs: list[Cidr] = Field(
        description="Source addresses in canonical CIDR form.",
        min_length=1,
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    ttl: Duration | None = Field(
        default=None,
        description="How long the rule lasts from its creation, or from startsAt, such as 2h. "
        "Exactly one of ttl and expiresAt.",
    )
    expires_at: Timestamp | None = Field(
        default=None,
        description="When the rule ends. Right for GitOps: an object that is created again opens nothing again.",
    )
    starts_at: Timestamp | None = Field(
        default=None,
        description="When the rule opens. Absent: at once.",
        json_schema_extra=cel(("self == oldSelf", "is immutable; create another AccessRule")),
    )
    reason: ReasonText = Field(description="Why the access is needed, for the record.")
    requested_by: Person = Field(
        description="The person who will use the access.",
        json_schema_extra=cel(("self == oldSelf", "is immutable; create another AccessRule")),
    )
    login: RuleLogin = Field(
        default=RuleLogin.TENANT,
        description="Tenant: the tenant's own role. PerRule: a login of this rule alone, in a Secret of its own, "
        "dropped when the rule ends.",
        json_schema_extra=cel(("self == oldSelf", "is immutable; create another AccessRule")),
    )
    revoked: bool = Field(
        default=False,
        description="Set to end the rule now; it cannot be taken back.",
        json_schema_extra=cel(("!oldSelf || self", "is final: a revoked rule stays revoked")),
    )
    ttl_after_closed: Duration | None = Field(
        default=None,
        alias="ttlAfterClosed",
        description="How long the ended rule stays as a record before it is deleted. Absent: for ever.",
    )
    decision: AccessDecision | None = Field(
        default=None,
        description="Written by an approver where the PostgresServer has accessApproval Required, once for what the "
        "rule gives. Denied ends the rule for good.",
        json_schema_extra=cel(
            (
                "self == oldSelf || oldSelf.verdict == 'Approved'",
                "was Denied, which is final; create another AccessRule",
            ),
            (
                "self == oldSelf || self.sha256 != oldSelf.sha256",
                "is written once for what the rule gives; only a rule that was edited since is decided on again",
            ),
        ),
    )


class AccessPhase(StrEnum):
    """Where a rule is in its life; Expired and Revoked are final, and so is Rejected after a decision Denied."""

    PENDING = "Pending"
    OPEN = "Open"
    EXPIRED = "Expired"
    REVOKED = "Revoked"
    REJECTED = "Rejected"


@dataclass(frozen=True, slots=True, kw_only=True, config=PART)
class AgentReport(Part):
    """What one agent last did about this rule."""

    name: str = Field(max_length=253)
    generation: int = Field(description="Generation of the rule that the agent acted on.")
    hba: bool = Field(description="pg_hba.conf lets the tenant in from these addresses.")
    kernel: bool = Field(description="The kernel lets packets from these addresses through.")
    sessions: bool = Field(default=True, description="No session is open that no open rule covers.")
    open_sessions: int = Field(default=0, ge=0, description="Sessions that are open under this rule.")
    terminated_sessions: int = Field(default=0, ge=0, description="Sessions that were ended with this rule.")
    ended_by_watchdog: int = Field(
        default=0, ge=0, description="Sessions under this rule that were ended for limits of the PostgresServer."
    )
    watchdog: str = Field(default="", max_length=256, description="What was measured of the latest of these.")
    at: Timestamp
    error: str = Field(default="", max_length=1024)


@dataclass(frozen=True, slots=True, kw_only=True, config=PART)
class Sessions(Part):
    """Sessions of a rule, summed over the agents."""

    open: int = Field(default=0, ge=0)
    terminated: int = Field(default=0, ge=0)


@dataclass(frozen=True, slots=True, kw_only=True, config=PART)
class DecisionTaken(Part):
    """A decision as the operator took it over; nothing is decided from it."""

    verdict: Verdict
    by: str = Field(max_length=256)
    sha256: Sha256
    at: Timestamp


class Receipt(ApiModel):
    """What the rule was used for, once it has ended."""

    opened_at: Timestamp | None = Field(default=None, description="Absent: it never opened.")
    approved_by: str | None = Field(
        default=None, max_length=256, description="Who approved what it gave last. Absent: nobody, or it never opened."
    )
    closed_at: Timestamp
    reason: str = Field(max_length=64)
    sessions: int | None = Field(default=None, description="Sessions on record. Absent: see message.")
    statements: int | None = Field(default=None, description="Statements on record. Absent: see message.")
    objects: list[Annotated[str, Field(max_length=255)]] = Field(
        default=[], max_length=64, description="Tables and other objects that the statements touched."
    )
    ended_by_watchdog: int = Field(
        default=0, ge=0, description="Sessions that were ended for limits of the PostgresServer."
    )
    complete: bool = Field(description="Whether the audit store holds all that the rule's sessions did.")
    message: str = Field(default="", max_length=1024)


class AccessRuleStatus(ApiModel):
    """The rule as it is now. Written by the operator, but ``agents`` and the condition Enforced by agents."""

    observed_generation: int = -1
    phase: AccessPhase | None = None
    server: str | None = Field(
        default=None, max_length=253, description="The PostgresServer that it is for, whose agents alone report on it."
    )
    sha256: Sha256 | None = Field(
        default=None,
        description="Hash of what the rule gives (tenant, cidrs, login, start, end) and of its uid: what a decision is "
        "bound to.",
    )
    decided: DecisionTaken | None = Field(default=None, description="The decision that was taken over last, and when.")
    expires_at: Timestamp | None = None
    opened_at: Timestamp | None = None
    closed_at: Timestamp | None = None
    closed_reason: str | None = Field(default=None, max_length=64)
    sessions: Sessions = Sessions()
    secret_name: str | None = Field(default=None, max_length=253, description="Where a login PerRule is found.")
    receipt: Receipt | None = None
    trail: Trail | None = Field(
        default=None, description="What the audit store is to be told of it, where somebody decides on it."
    )
    agents: list[AgentReport] = Field(default=[], max_length=16, json_schema_extra=list_map("name"))
    conditions: list[Condition] = Field(default=[], max_length=16, json_schema_extra=list_map("type"))


_NO_DECISION = "!has(self.spec.decision)"
_SAME_DECISION = f"{_NO_DECISION} || (has(oldSelf.spec.decision) && self.spec.decision == oldSelf.spec.decision)"


class AccessRule(Resource):
    """Direct access to PostgreSQL from some addresses, as one tenant, until a deadline."""

    spec: AccessRuleSpec
    status: AccessRuleStatus = AccessRuleStatus()

    crd: ClassVar[CustomResource] = CustomResource(
        kind="AccessRule",
        plural="accessrules",
        singular="accessrule",
        short_names=("ar",),
        namespaced=True,
        columns=(
            Column("Tenant", ".spec.tenantRef.name"),
            Column("CIDRs", ".spec.cidrs"),
            Column("Phase", ".status.phase"),
            Column("Expires", ".status.expiresAt"),
            Column("Decided-By", ".spec.decision.by"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        spec_rules=(
            ("has(self.ttl) != has(self.expiresAt)", "exactly one of ttl and expiresAt must be set"),
            ("!has(self.ttl) || duration(self.ttl) >= duration('1s')", "ttl must be at least 1s"),
            (
                "!has(self.startsAt) || !has(self.expiresAt) || self.startsAt < self.expiresAt",
                "startsAt must be before expiresAt",
            ),
            ("has(self.startsAt) == has(oldSelf.startsAt)", "startsAt is immutable"),
            ("!has(oldSelf.decision) || has(self.decision)", "decision stays once it is written"),
            (
                "!has(self.decision) || !(self.decision.by in self.requestedBy.split(','))",
                "decision.by must not be requestedBy: who asks for access does not decide on it",
            ),
        ),
        root_rules=(
            (
                f"{_NO_DECISION} || (has(self.status) && has(self.status.sha256))",
                "spec.decision must wait until the operator has written status.sha256, which it decides on",
            ),
            (
                f"{_SAME_DECISION} || !has(self.status) || !has(self.status.sha256) "
                "|| self.spec.decision.sha256 == self.status.sha256",
                "spec.decision.sha256 must be status.sha256: the rule is not what was decided on",
            ),
            (
                f"{_SAME_DECISION} || !(self.spec.revoked || (has(self.status) && has(self.status.closedAt)))",
                "the rule has ended, so there is nothing to decide; create another AccessRule",
            ),
            (
                "self.spec.login != 'PerRule' || size(self.metadata.name) <= 246",
                "metadata.name must have at most 246 characters with login: PerRule, whose Secret is <name>-access",
            ),
        ),
    )

    @property
    def tenant_key(self) -> tuple[str, str]:
        """(namespace, name) of the Tenant that the rule lets somebody log in as."""
        return (self.metadata.namespace, self.spec.tenant_ref.name)

    @property
    def secret_name(self) -> str:
        """Name of the Secret of a login PerRule."""
        return f"{self.metadata.name}-access"
