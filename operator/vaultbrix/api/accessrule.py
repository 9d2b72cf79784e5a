"""AccessRule: an address may connect as a tenant until a deadline."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from vaultbrix.api.conditions import Condition
from vaultbrix.api.crd import Column, CustomResource, cel, list_map
from vaultbrix.api.meta import ApiModel, Duration, LocalRef, Person, ReasonText, Resource, Timestamp

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


class AccessRuleSpec(ApiModel):
    """What is asked for: who, from where, until when, and why."""

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
        description="How long the rule lasts from its creation, such as 2h. Exactly one of ttl and expiresAt.",
    )
    expires_at: Timestamp | None = Field(
        default=None,
        description="When the rule ends. Right for GitOps: an object that is created again opens nothing again.",
    )
    reason: ReasonText = Field(description="Why the access is needed, for the record.")
    requested_by: Person = Field(
        description="The person who will use the access.",
        json_schema_extra=cel(("self == oldSelf", "is immutable; create another AccessRule")),
    )
    revoked: bool = Field(
        default=False,
        description="Set to end the rule now; it cannot be taken back.",
        json_schema_extra=cel(("!oldSelf || self", "is final: a revoked rule stays revoked")),
    )


class AccessPhase(StrEnum):
    """Where a rule is in its life; Expired and Revoked are final."""

    PENDING = "Pending"
    OPEN = "Open"
    EXPIRED = "Expired"
    REVOKED = "Revoked"
    REJECTED = "Rejected"


class AgentReport(ApiModel):
    """What one agent last did about this rule."""

    name: str = Field(max_length=253)
    generation: int = Field(description="Generation of the rule that the agent acted on.")
    hba: bool = Field(description="pg_hba.conf lets the tenant in from these addresses.")
    kernel: bool = Field(description="The kernel lets packets from these addresses through.")
    at: Timestamp
    error: str = Field(default="", max_length=1024)


class AccessRuleStatus(ApiModel):
    """What holds now. Written by the operator, ``agents`` and the condition Enforced by agents."""

    observed_generation: int = -1
    phase: AccessPhase | None = None
    expires_at: Timestamp | None = None
    opened_at: Timestamp | None = None
    closed_at: Timestamp | None = None
    closed_reason: str | None = Field(default=None, max_length=64)
    agents: list[AgentReport] = Field(default=[], max_length=16, json_schema_extra=list_map("name"))
    conditions: list[Condition] = Field(default=[], max_length=16, json_schema_extra=list_map("type"))


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
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        spec_rules=(
            ("has(self.ttl) != has(self.expiresAt)", "exactly one of ttl and expiresAt must be set"),
            ("!has(self.ttl) || duration(self.ttl) >= duration('1s')", "ttl must be at least 1s"),
        ),
    )
