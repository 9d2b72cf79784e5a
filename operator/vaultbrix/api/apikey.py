"""APIKey: an application may call the data API as a tenant, until the key ends."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from vaultbrix.api.accessrule import Cidr
from vaultbrix.api.conditions import Condition
from vaultbrix.api.crd import Column, CustomResource, cel, list_map
from vaultbrix.api.meta import PART, ApiModel, Duration, LocalRef, Name, Part, Person, ReasonText, Resource, Timestamp

_IMMUTABLE = cel(("self == oldSelf", "is immutable; create another APIKey"))

LONGEST_TOKEN = 64


class KeyKind(StrEnum):
    """Whom a key stands for: what anybody may know, or the tenant itself."""

    PUBLISHABLE = "Publishable"
    SECRET = "Secret"  # noqa: S105 - a kind's name


class APIKeySpec(ApiModel):
    """What is asked for: for which tenant, of which kind, until when, from where, and why."""

    tenant_ref: LocalRef = Field(
        description="The Tenant of the same namespace whose data the key opens.", json_schema_extra=_IMMUTABLE
    )
    kind: KeyKind = Field(
        description="Publishable: may stand in a browser; it opens what the tenant grants to anybody, or to a user who "
        "is logged in. Secret: for servers only; it opens all that the tenant's own role may.",
        json_schema_extra=_IMMUTABLE,
    )
    secret_name: Name | None = Field(
        default=None,
        description="The Secret of the same namespace that the key is written to. Absent: <name>-api-key.",
    )
    ttl: Duration | None = Field(
        default=None,
        description="How long the key lasts from the creation of this object, such as 720h. "
        "At most one of ttl and expiresAt; with neither the key lasts until it is revoked.",
    )
    expires_at: Timestamp | None = Field(default=None, description="When the key ends.")
    allowed_cidrs: list[Cidr] = Field(
        default=[],
        alias="allowedCIDRs",
        description="From which addresses the key is good, in canonical CIDR form. Empty: from everywhere.",
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    rotate_token: (
        Annotated[str, Field(min_length=1, max_length=LONGEST_TOKEN, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")] | None
    ) = Field(default=None, description="Any text. Another one than before makes a new key in place of the old one.")
    overlap: Duration = Field(
        default=timedelta(),
        description="How long the old key stays good after a new one was made. 0s: it ends at once.",
    )
    revoked: bool = Field(
        default=False,
        description="Set to end the key now; it cannot be taken back.",
        json_schema_extra=cel(("!oldSelf || self", "is final: a revoked key stays revoked")),
    )
    reason: ReasonText = Field(description="What the key is for, for the record.")
    requested_by: Person = Field(description="The person who answers for the key.", json_schema_extra=_IMMUTABLE)


class KeyPhase(StrEnum):
    """Where a key is in its life; Expired and Revoked are final."""

    PENDING = "Pending"
    ACTIVE = "Active"
    EXPIRED = "Expired"
    REVOKED = "Revoked"
    REJECTED = "Rejected"


@dataclass(frozen=True, slots=True, kw_only=True, config=PART)
class KeyEntry(Part):
    """What is known of one key: never its text."""

    sha256: str = Field(
        min_length=64, max_length=64, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key's text."
    )
    prefix: str = Field(max_length=20, description="The first characters of the key's text, to tell it by.")
    created_at: Timestamp
    expires_at: Timestamp | None = Field(
        default=None, description="When the key ends that another one has taken the place of."
    )


class KeyReceipt(ApiModel):
    """What was used that has ended: all keys of the APIKey, or before its end the one that was replaced last.

    The counts are of what the audit store holds. Of more than 20 refusals in a second only some are told one by one.
    """

    sha256: str | None = Field(
        default=None,
        max_length=64,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the text of the key that was replaced. Absent: all keys of this APIKey are meant.",
    )
    prefix: str | None = Field(default=None, max_length=20, description="The first characters of the replaced key.")
    created_at: Timestamp
    closed_at: Timestamp
    reason: str = Field(max_length=64, description="Revoked, Expired, DeadlinePassed or Rotated.")
    requests: int | None = Field(default=None, ge=0, description="Requests that were let in. Absent: see message.")
    refused: int | None = Field(default=None, ge=0, description="Requests that were refused after the end.")
    first_used_at: Timestamp | None = Field(default=None, description="Absent: it was never used, or see message.")
    last_used_at: Timestamp | None = None
    last_address: str | None = Field(
        default=None, max_length=45, description="Where the last request that was let in came from."
    )
    complete_until: Timestamp | None = Field(
        default=None, description="Up to when the counts have all that was logged. Absent: see message."
    )
    message: str = Field(default="", max_length=1024)


class APIKeyStatus(ApiModel):
    """What holds now. Written by the operator, ``lastUsedAt`` by the gateway."""

    observed_generation: int = -1
    phase: KeyPhase | None = None
    secret_name: str | None = Field(default=None, max_length=253, description="Where the key is found.")
    rotate_token: str | None = Field(
        default=None, max_length=LONGEST_TOKEN, description="spec.rotateToken that the newest key was made for."
    )
    expires_at: Timestamp | None = Field(default=None, description="When the key ends. Absent: not by itself.")
    closed_at: Timestamp | None = None
    closed_reason: str | None = Field(default=None, max_length=64)
    keys: list[KeyEntry] = Field(
        default=[], max_length=2, description="The key that is in the Secret, then the one before while it is good."
    )
    last_used_at: Timestamp | None = Field(
        default=None, description="When a request was last let in with the key, to about a minute."
    )
    receipt: KeyReceipt | None = Field(
        default=None,
        description="What the keys were used for, once the APIKey has ended; before that, of the key replaced last.",
    )
    conditions: list[Condition] = Field(default=[], max_length=16, json_schema_extra=list_map("type"))


class APIKey(Resource):
    """A key for the data API of one tenant, in a Secret; rotated and ended without touching the database."""

    spec: APIKeySpec
    status: APIKeyStatus = APIKeyStatus()

    crd: ClassVar[CustomResource] = CustomResource(
        kind="APIKey",
        plural="apikeys",
        singular="apikey",
        short_names=("ak",),
        namespaced=True,
        columns=(
            Column("Tenant", ".spec.tenantRef.name"),
            Column("Kind", ".spec.kind"),
            Column("Key", ".status.keys[0].prefix"),
            Column("Phase", ".status.phase"),
            Column("Expires", ".status.expiresAt"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Used", ".status.lastUsedAt", "date"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        spec_rules=(
            ("!(has(self.ttl) && has(self.expiresAt))", "at most one of ttl and expiresAt may be set"),
            ("!has(self.ttl) || duration(self.ttl) >= duration('1s')", "ttl must be at least 1s"),
            (
                "has(self.secretName) == has(oldSelf.secretName)"
                " && (!has(self.secretName) || self.secretName == oldSelf.secretName)",
                "secretName is immutable; create another APIKey",
            ),
        ),
        root_rules=(
            (
                "has(self.spec.secretName) || size(self.metadata.name) <= 245",
                "metadata.name must have at most 245 characters without spec.secretName: the Secret is <name>-api-key",
            ),
        ),
    )

    @property
    def tenant_key(self) -> tuple[str, str]:
        """(namespace, name) of the Tenant whose data the key opens."""
        return (self.metadata.namespace, self.spec.tenant_ref.name)

    @property
    def secret_name(self) -> str:
        """Name of the Secret that holds the key."""
        return self.spec.secret_name or f"{self.metadata.name}-api-key"
