"""Tenant: a role, a schema and credentials on a server."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from vaultbrix.api.audit_retention import AuditRetention
from vaultbrix.api.conditions import Condition
from vaultbrix.api.crd import Column, CustomResource, cel, list_map
from vaultbrix.api.meta import ApiModel, Duration, LocalRef, Name, Resource, Timestamp, Uid

SLUG_PATTERN = r"^[a-z][a-z0-9_]{0,54}$"

# With dataAPI, so that its longest role, tenant_<slug>_authenticated, is a name of PostgreSQL's: 63 bytes at most.
LONGEST_SLUG = 42

LONGEST_TOKEN = 64
_Token = Annotated[str, Field(min_length=1, max_length=LONGEST_TOKEN, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]

SettingValue = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[0-9]+(ms|s|min|h|kB|MB|GB)?$")]


_NAME = r"[^.\x00-\x1f\x7f-\x9f]+"
RelationName = Annotated[str, Field(min_length=1, max_length=127, pattern=rf"^({_NAME}\.)?{_NAME}$")]


class DeletionPolicy(StrEnum):
    """What becomes of the data when the Tenant is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class TenantSettings(ApiModel):
    """Run-time parameters of the role (PostgreSQL 20.11); a name that is not here cannot be set."""

    statement_timeout: SettingValue | None = Field(default=None, alias="statement_timeout")
    lock_timeout: SettingValue | None = Field(default="5s", alias="lock_timeout")
    idle_in_transaction_session_timeout: SettingValue | None = Field(
        default=None, alias="idle_in_transaction_session_timeout"
    )
    work_mem: SettingValue | None = Field(default=None, alias="work_mem")


class AutoApprove(StrEnum):
    """Kinds of DDL that run without an approval."""

    ADDITIVE = "Additive"


class DDLPolicy(ApiModel):
    """What the tenant's sessions may change of their own tables without an admin."""

    auto_approve: list[AutoApprove] = Field(
        default=[],
        max_length=1,
        description="Additive: ALTERs that add, and neither lose nor rewrite anything; docs/ddl.md lists them.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    rebuildable: list[RelationName] = Field(
        default=[],
        max_length=50,
        description="Relations that a tool builds anew each time, as [SCHEMA.]NAME with * and ?; the schema is the "
        "tenant's own unless one is named. They may be renamed, emptied and dropped without an approval; docs/ddl.md.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    request_on_refusal: bool = Field(
        default=False, description="Make a DDLApproval, still to be decided, of each text that the gate refuses."
    )


class Credentials(ApiModel):
    """Which Secret the credentials are written to, and when they are replaced."""

    secret_name: Name | None = Field(
        default=None, description="The Secret of the same namespace that is written. Absent: <tenant>-db. Immutable."
    )
    rotate_every: Duration | None = Field(
        default=None,
        description="How old a password becomes before another one takes its place, such as 720h: 1h to 8760h. "
        "Absent: as old as it may.",
    )
    rotate_token: _Token | None = Field(
        default=None, description="Any text. Another one than before has the password replaced once; sessions go on."
    )
    revoke_token: _Token | None = Field(
        default=None,
        description="Any text. Another one than before has the password replaced once, ends the previous one at once "
        "whatever keepPrevious says, and ends the sessions that began before: for a suspected leak.",
    )
    keep_previous: Duration = Field(
        default=timedelta(),
        description="How long the previous password stays good after rotateEvery or rotateToken, with the username "
        "that it had, at most 168h. The Secret then names two logins in turn; 0s: one, and nothing stays good.",
    )


class LocalSecretKey(LocalRef):
    """One key of a Secret of the same namespace."""

    key: str = Field(default="secret", min_length=1, max_length=253)


class UserTokens(ApiModel):
    """Whose tokens (JWT, RFC 7519) name the users of a tenant's data API."""

    secret_ref: LocalSecretKey | None = Field(
        default=None,
        description="The secret that tokens are signed with (HS256): 32 bytes or more, in a Secret of this namespace.",
    )
    jwks_url: Annotated[str, Field(max_length=2048, pattern=r"^https://[^\x00-\x20\x7f-\x9f]+$")] | None = Field(
        default=None, alias="jwksURL", description="Where the issuer publishes its public keys (RFC 7517)."
    )
    issuer: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        default=None, description="What iss must be. Absent: it is not looked at."
    )
    audience: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        default=None, description="What aud must hold. Absent: it is not looked at."
    )
    role_claim: str = Field(
        default="role",
        min_length=1,
        max_length=128,
        description="The claim that names the role: authenticated, also where it is absent, or anon.",
    )


class DataAPI(ApiModel):
    """How the tenant's schema is served at /rest/v1."""

    enabled: bool = Field(default=True, description="false: nobody gets in, and the roles stay as they are.")
    jwt: UserTokens | None = Field(
        default=None,
        description="Absent: the tenant has no users of its own, only keys.",
        json_schema_extra=cel(
            ("has(self.secretRef) != has(self.jwksURL)", "needs one of secretRef and jwksURL, and only one")
        ),
    )
    max_rows: int = Field(default=1000, ge=1, le=1_000_000, description="Rows that one answer has at most.")


class TenantSpec(ApiModel):
    """The role, schema and credentials that a Tenant asks for."""

    server_ref: LocalRef = Field(
        description="The PostgresServer that the tenant lives on.",
        json_schema_extra=cel(("self == oldSelf", "is immutable")),
    )
    slug: str | None = Field(
        default=None,
        pattern=SLUG_PATTERN,
        max_length=55,
        description="Role and schema are tenant_<slug>. Absent: the object's name with - as _.",
    )
    connection_limit: int = Field(default=20, ge=1, le=10000, description="CONNECTION LIMIT of the role.")
    settings: TenantSettings = Field(default=TenantSettings(), description="Run-time parameters of the role.")
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description="Retain locks the role and keeps the data; Delete drops role and schema, once nothing of others "
        "depends on them.",
    )
    adopt: Uid | None = Field(
        default=None,
        description="The uid of the Tenant that is gone and whose retained data this one takes over, once "
        "spec.adoptions of the PostgresServer agrees; Ready says which. Without effect afterwards.",
    )
    credentials: Credentials | None = Field(
        default=None,
        description="Absent: a Secret named <tenant>-db, with a password that is never replaced.",
        json_schema_extra=cel(
            (
                "!has(self.rotateEvery)"
                " || duration(self.rotateEvery) >= duration('1h') && duration(self.rotateEvery) <= duration('8760h')",
                "rotateEvery must be at least 1h and at most 8760h",
            ),
            ("duration(self.keepPrevious) <= duration('168h')", "keepPrevious must be at most 168h"),
            (
                "!has(self.rotateEvery) || duration(self.keepPrevious) < duration(self.rotateEvery)",
                "keepPrevious must be less than rotateEvery",
            ),
        ),
    )
    ddl_policy: DDLPolicy = Field(
        default=DDLPolicy(), alias="ddlPolicy", description="What passes without an admin, and what a refusal becomes."
    )
    audit_retention: AuditRetention | None = Field(
        default=None,
        description="How long the tenant's audit records are kept, where that is longer than the PostgresServer says; "
        "a shorter time has no effect. It holds for records from then on.",
    )
    data_api: DataAPI | None = Field(
        default=None, alias="dataAPI", description="Serve the schema over HTTPS to holders of an APIKey. Absent: no."
    )
    suspended: bool = Field(default=False, description="NOLOGIN, sessions ended, rules and data API closed.")


class ServedAPI(ApiModel):
    """Where a tenant's data API is."""

    url: str = Field(max_length=512, description="The address that applications are given.")


class CredentialsStatus(ApiModel):
    """What the Secret holds now, once PostgreSQL takes it."""

    username: str = Field(max_length=63, description="The login that the Secret names.")
    rotated_at: Timestamp = Field(description="When its password was made.")
    previous_until: Timestamp | None = Field(
        default=None, description="Until when the login and password of before are good, too. Absent: they are not."
    )
    rotate_token: str | None = Field(
        default=None, max_length=LONGEST_TOKEN, description="spec.credentials.rotateToken that is done."
    )
    revoke_token: str | None = Field(
        default=None, max_length=LONGEST_TOKEN, description="spec.credentials.revokeToken that is done."
    )


class TenantStatus(ApiModel):
    """The Tenant as it is now. Written by the operator."""

    observed_generation: int = -1
    role: str | None = Field(default=None, max_length=63)
    schema_name: str | None = Field(default=None, alias="schema", max_length=63)
    secret_name: str | None = Field(default=None, max_length=253)
    credentials: CredentialsStatus | None = Field(default=None)
    data_api: ServedAPI | None = Field(default=None, alias="dataAPI")
    conditions: list[Condition] = Field(default=[], max_length=16, json_schema_extra=list_map("type"))


_NAMED = (
    "(has({0}.spec.credentials) && has({0}.spec.credentials.secretName)"
    " ? {0}.spec.credentials.secretName : {0}.metadata.name + '-db')"
)


class Tenant(Resource):
    """A role and schema of its own on a PostgresServer, with credentials in a Secret."""

    spec: TenantSpec
    status: TenantStatus = TenantStatus()

    crd: ClassVar[CustomResource] = CustomResource(
        kind="Tenant",
        plural="tenants",
        singular="tenant",
        short_names=("vt",),
        namespaced=True,
        columns=(
            Column("Server", ".spec.serverRef.name"),
            Column("Role", ".status.role"),
            Column("Secret", ".status.secretName"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        spec_rules=(
            (
                "has(self.slug) == has(oldSelf.slug) && (!has(self.slug) || self.slug == oldSelf.slug)",
                "slug is immutable",
            ),
        ),
        root_rules=(
            (
                f"{_NAMED.format('self')} == {_NAMED.format('oldSelf')}",
                "spec.credentials.secretName is immutable; it is <tenant>-db where it is absent",
            ),
            (
                "has(self.spec.slug) || self.metadata.name.matches('^[a-z][a-z0-9-]{0,54}$')",
                "spec.slug is required when metadata.name is no slug: a letter, then up to 54 letters, digits or -",
            ),
            (
                "!(has(self.spec.slug) ? self.spec.slug : self.metadata.name).matches('[-_]r[-_][0-9a-f]{10}$')",
                "a slug must not end as the login of an AccessRule does, in _r_ and ten hexadecimal digits",
            ),
            (
                "!has(self.spec.dataAPI)"
                f" || size(has(self.spec.slug) ? self.spec.slug : self.metadata.name) <= {LONGEST_SLUG}",
                f"dataAPI needs a slug of {LONGEST_SLUG} characters at most, since names of roles are made of it; "
                "create another Tenant with a shorter spec.slug",
            ),
        ),
    )

    @property
    def slug(self) -> str:
        """The slug: that of the spec, else the object's name with - as _."""
        return self.spec.slug or self.metadata.name.replace("-", "_")

    @property
    def role(self) -> str:
        """Name of the role and of the schema."""
        return f"tenant_{self.slug}"

    @property
    def login(self) -> str:
        """Whom the Secret names: the role, or the tenant's second login."""
        return self.status.credentials.username if self.status.credentials else self.role

    @property
    def secret_name(self) -> str:
        """Name of the Secret with the credentials."""
        named = self.spec.credentials.secret_name if self.spec.credentials else None
        return named or f"{self.metadata.name}-db"
