"""PostgresServer: an instance of PostgreSQL where tenants live."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vaultbrix.api.accessrule import Cidr
from vaultbrix.api.audit_retention import ServerAuditRetention
from vaultbrix.api.conditions import Condition
from vaultbrix.api.crd import Column, CustomResource, list_map
from vaultbrix.api.meta import ApiModel, Duration, Label, Name, Port, Resource, Timestamp

Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9.:]*[A-Za-z0-9])?$")]
Identifier = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]


class SecretRef(ApiModel):
    """A Secret by name and namespace."""

    name: Name
    namespace: Label


class SecretKeyRef(SecretRef):
    """One key of a Secret."""

    key: str = Field(default="ca.crt", min_length=1, max_length=253)


class Tls(ApiModel):
    """How the server's certificate is checked (libpq sslmode, PostgreSQL 34.19)."""

    mode: Literal["verify-full", "verify-ca", "require"] = "verify-full"
    ca_secret_ref: SecretKeyRef | None = Field(
        default=None, description="The CA that signed the server's certificate; required by verify-*."
    )


class Endpoint(ApiModel):
    """Host and port by which tenants connect."""

    host: Host
    port: Port = 5433
    echo_port: Port | None = Field(
        default=None, description="Where an agent tells callers the address that it sees them under. Absent: nowhere."
    )


class Limits(ApiModel):
    """What a rule may ask for at most."""

    max_ttl: Duration = Field(
        default=timedelta(hours=168),
        alias="maxTTL",
        description="Longest life of a rule, from its creation or startsAt.",
    )
    min_prefix_v4: int = Field(default=24, ge=1, le=32, alias="minPrefixV4", description="Shortest IPv4 prefix.")
    min_prefix_v6: int = Field(default=64, ge=1, le=128, alias="minPrefixV6", description="Shortest IPv6 prefix.")
    max_rules_per_tenant: int = Field(
        default=50, ge=1, le=1000, description="Rules of one tenant that may be open or about to open."
    )


class DataAPIEndpoint(ApiModel):
    """Where the gateway of the data API is reached."""

    url: str = Field(
        max_length=300,
        pattern=r"^https://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$",
        description="Such as https://api.example.com: tenants are served there at /rest/v1.",
    )


class PostgresServerSpec(ApiModel):
    """How the operator connects, how tenants do, and what rules may ask for."""

    host: Host = Field(description="How the operator and Jobs connect.")
    port: Port = 5433
    database: Identifier = Field(default="postgres", description="The database that tenants live in.")
    tls: Tls = Tls()
    admin_secret_ref: SecretRef = Field(description="Keys username and password of a superuser.")
    public_endpoint: Endpoint | None = Field(default=None, description="Absent: host and port above.")
    namespace: Label | None = Field(
        default=None, description="Namespace of the PostgreSQL pods. Absent: not in this cluster."
    )
    pod_selector: dict[str, LabelValue] = Field(
        default={}, max_length=16, description="Labels of the PostgreSQL pods, for NetworkPolicy."
    )
    trusted_cidrs: list[Cidr] = Field(
        default=[],
        max_length=32,
        alias="trustedCIDRs",
        description="Cluster-internal sources: may connect, never log in as a tenant except for Jobs.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    audit_secret_ref: SecretRef | None = Field(
        default=None,
        description="Keys host, port, dbname, username, password and ca.crt of a reader of the audit store, "
        "for the receipts of ended rules and for AuditFlowing. Absent: receipts count no statements.",
    )
    audit_required: bool = Field(
        default=False,
        description="Whether agents close direct access while the audit record does not flow. Jobs are not held back.",
    )
    audit_grace: Duration = Field(
        default=timedelta(minutes=10),
        description="How long the record may not flow before auditRequired closes, at least 1m.",
    )
    audit_manager_secret_ref: SecretRef | None = Field(
        default=None,
        description="Keys as in auditSecretRef, of a member of audit_manage: the operator writes how long records are "
        "kept, and drops those whose days have passed once a day. Servers of one store name the same Secret. "
        "Absent: nothing is written or dropped.",
    )
    audit_retention: ServerAuditRetention | None = Field(
        default=None,
        description="How long audit records are kept, of tenants that do not say and of no tenant. Absent: 400 days. "
        "It holds for records from then on.",
    )
    limits: Limits = Limits()
    data_api: DataAPIEndpoint | None = Field(
        default=None, alias="dataAPI", description="Let Tenants have their schema served over HTTPS. Absent: none can."
    )


class AgentAudit(ApiModel):
    """What an agent knows of the audit record, from the shipper beside it."""

    flowing: bool
    reason: str = Field(max_length=64)
    message: str = Field(default="", max_length=1024)
    closed: bool = Field(default=False, description="Direct access is closed by spec.auditRequired.")


class AuditAnchor(ApiModel):
    """A sealed batch that was in the audit store once, so that it must be there ever after."""

    batch: int = Field(ge=1)
    head: str = Field(max_length=64, pattern=r"^[0-9a-f]{64}$", description="Hash of its header, hex.")
    sealed_at: Timestamp


class ServerAgent(ApiModel):
    """What an agent beside PostgreSQL says of itself."""

    name: str = Field(max_length=253)
    namespace: str = Field(max_length=63, description="Where its Lease is, named <server>-<name>.")
    firewall: str = Field(default="", max_length=32, description="The kernel's interface in use.")
    clock_skew_seconds: int = Field(default=0, description="Its clock minus the API server's, 0 up to 5 s.")
    sources: list[Annotated[str, Field(max_length=43)]] = Field(
        default=[], max_length=8, description="Addresses that connections of tenants came from, a sample."
    )
    error: str = Field(default="", max_length=1024)
    audit: AgentAudit | None = Field(default=None, description="Absent: the agent reads no flow.json (--flow-file).")
    at: Timestamp


class PostgresServerStatus(ApiModel):
    """The server as it is now. Written by the operator, but ``agents`` by agents."""

    observed_generation: int = -1
    version: str | None = Field(default=None, max_length=64)
    system_identifier: str | None = Field(default=None, max_length=32)
    gate_version: int | None = None
    tenants: int = 0
    open_rules: int = 0
    audit: AuditAnchor | None = Field(
        default=None, description="The latest sealed batch, written once a minute; it never goes back."
    )
    agents: list[ServerAgent] = Field(default=[], max_length=16, json_schema_extra=list_map("name"))
    conditions: list[Condition] = Field(default=[], max_length=16, json_schema_extra=list_map("type"))


class PostgresServer(Resource):
    """A PostgreSQL instance where tenants live."""

    spec: PostgresServerSpec
    status: PostgresServerStatus = PostgresServerStatus()

    crd: ClassVar[CustomResource] = CustomResource(
        kind="PostgresServer",
        plural="postgresservers",
        singular="postgresserver",
        short_names=("pgs",),
        namespaced=False,
        columns=(
            Column("Host", ".spec.host"),
            Column("Version", ".status.version"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        spec_rules=(
            ("duration(self.auditGrace) >= duration('1m')", "auditGrace must be at least 1m"),
            (
                "self.tls.mode == 'require' || has(self.tls.caSecretRef)",
                "tls.caSecretRef is required when tls.mode is verify-full or verify-ca",
            ),
            (
                "!has(self.namespace) || size(self.podSelector) > 0",
                "podSelector is required when namespace is set",
            ),
        ),
        root_rules=(
            (
                "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$')",
                "metadata.name must have 1 to 40 lower-case letters, digits or hyphens, without dots",
            ),
        ),
    )

    @property
    def endpoint(self) -> Endpoint:
        """Where tenants connect."""
        return self.spec.public_endpoint or Endpoint(host=self.spec.host, port=self.spec.port)
