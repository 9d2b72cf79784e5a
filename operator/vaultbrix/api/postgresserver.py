"""PostgresServer: an instance of PostgreSQL where tenants live."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vaultbrix.api.accessrule import Cidr
from vaultbrix.api.audit_retention import ServerAuditRetention
from vaultbrix.api.conditions import Condition, ConditionType, is_false
from vaultbrix.api.crd import Column, CustomResource, cel, list_map
from vaultbrix.api.labels import LabelValue
from vaultbrix.api.limits import Limits
from vaultbrix.api.meta import ApiModel, Duration, Label, Name, Port, Resource, Timestamp
from vaultbrix.api.orphan import Orphan
from vaultbrix.api.placement import Adoption, AllowedNamespaces

Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9.:]*[A-Za-z0-9])?$")]
Identifier = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
IPAddress = Annotated[
    str,
    Field(
        max_length=39,
        json_schema_extra=cel(("isIP(self) && ip.isCanonical(self)", "must be an IP address in canonical form")),
    ),
]
SslMode = Literal["verify-full", "verify-ca", "require"]


class SecretRef(ApiModel):
    """A Secret by name and namespace."""

    name: Name
    namespace: Label


class SecretKeyRef(SecretRef):
    """One key of a Secret."""

    key: str = Field(default="ca.crt", min_length=1, max_length=253)


class Tls(ApiModel):
    """How the server's certificate is checked (libpq sslmode, PostgreSQL 34.19)."""

    mode: SslMode = "verify-full"
    ca_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="The CA that signed the server's certificate, in PEM and nothing beside it; required by verify-*.",
    )


class Endpoint(ApiModel):
    """Host and port by which tenants connect."""

    host: Host
    port: Port = 5433
    echo_port: Port | None = Field(
        default=None, description="Where an agent tells callers the address that it sees them under. Absent: nowhere."
    )


class TrustedPods(ApiModel):
    """Pods of one namespace."""

    namespace: Label
    selector: dict[str, LabelValue] = Field(min_length=1, max_length=16, description="Labels that the Pods have.")


class Trusted(ApiModel):
    """Sources that the kernel lets in for ever: what works on the server, and nothing else."""

    pods: list[TrustedPods] = Field(
        default=[],
        max_length=16,
        description="Agents watch them. Pods on their node's network are passed over: others share their address.",
    )
    addresses: list[IPAddress] = Field(
        default=[],
        max_length=32,
        description="Such as 203.0.113.7 or 2001:db8::7.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class DataAPIEndpoint(ApiModel):
    """Where the gateway of the data API is reached."""

    url: str = Field(
        max_length=300,
        pattern=r"^https://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$",
        description="Such as https://api.example.com: tenants are served there at /rest/v1.",
    )


class AccessApproval(StrEnum):
    """Whether a rule opens only as somebody else than its requester approved it."""

    NONE = "None"
    REQUIRED = "Required"


class PostgresServerSpec(ApiModel):
    """How the operator connects, how tenants do, and what rules may ask for."""

    host: Host = Field(description="How the operator and Jobs connect.")
    port: Port = 5433
    database: Identifier = Field(default="postgres", description="The database that tenants live in.")
    tls: Tls = Tls()
    admin_secret_ref: SecretRef = Field(
        description="Keys username and password of a superuser; tls.crt and tls.key if it needs a client certificate. "
        "As every Secret that is named here, it is used only with label vaultbrix.com/for-postgresserver: the server's "
        "name, or names joined by dots."
    )
    public_endpoint: Endpoint | None = Field(default=None, description="Absent: host and port above.")
    namespace: Label | None = Field(
        default=None, description="Namespace of the PostgreSQL pods. Absent: not in this cluster."
    )
    pod_selector: dict[str, LabelValue] = Field(
        default={}, max_length=16, description="Labels of the PostgreSQL pods, for NetworkPolicy."
    )
    trusted: Trusted = Field(
        default=Trusted(),
        description="Sources of the operator, of Jobs, of the data API and of monitoring: they may connect without a "
        "rule, and never log in as a tenant except for Jobs and the data API. No AccessRule may name their addresses.",
    )
    trusted_cidrs: list[Cidr] = Field(
        default=[],
        max_length=32,
        alias="trustedCIDRs",
        description="Ranges of such sources, where exact ones cannot be named: everybody in them gets as far as a "
        "password prompt, for ever.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    audit_secret_ref: SecretRef | None = Field(
        default=None,
        description="Keys host, port, dbname, username, password and ca.crt of a reader of the audit store, "
        "for the receipts of ended rules and keys and for AuditFlowing. Absent: receipts count nothing.",
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
    access_approval: AccessApproval = Field(
        default=AccessApproval.NONE,
        description="Required: an AccessRule opens nothing until somebody else than its requester has approved what it "
        "gives (its spec.decision). That holds for rules that are open already, too.",
    )
    auto_approve_up_to: Duration | None = Field(
        default=None,
        description="Under accessApproval Required: a rule that lasts no longer than this, from its start to its end, "
        "needs no approval. Absent: every rule does.",
    )
    allowed_namespaces: AllowedNamespaces | None = Field(
        default=None,
        description="Whose Tenants may be placed here. Absent: nobody's. Tenants that are here already stay, whatever "
        "it says.",
        json_schema_extra=cel(
            (
                "(self.from == 'Selector') == has(self.selector)",
                "selector is required with from: Selector, and forbidden otherwise",
            )
        ),
    )
    adoptions: list[Adoption] = Field(
        default=[],
        max_length=1000,
        description="Which Tenants may take over retained data, one for each Tenant that is gone. "
        "An entry does nothing once that was done.",
        json_schema_extra=list_map("from"),
    )
    data_api: DataAPIEndpoint | None = Field(
        default=None, alias="dataAPI", description="Let Tenants have their schema served over HTTPS. Absent: none can."
    )


class AgentAudit(ApiModel):
    """What an agent knows of the audit record, from the shipper beside it."""

    flowing: bool
    reason: str = Field(max_length=64)
    message: str = Field(default="", max_length=1024)
    closed: bool = Field(default=False, description="Direct access is closed by spec.auditRequired.")


class WatchdogEnd(ApiModel):
    """Sessions of one tenant that an agent ended for one limit."""

    tenant: str = Field(max_length=511, description="Namespace/name of the Tenant.")
    limit: str = Field(max_length=64, description="The field of spec.limits that they were beyond.")
    sessions: int = Field(ge=1, description="How many, since the agent started.")
    message: str = Field(default="", max_length=256, description="What was measured of the latest.")
    at: Timestamp


class AgentWatchdog(ApiModel):
    """What an agent's watchdog did, and what keeps it from watching."""

    message: str = Field(default="", max_length=512, description="Empty: it watches, and all limits can be kept.")
    ended: list[WatchdogEnd] = Field(default=[], max_length=8, description="The latest, one for each tenant and limit.")


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
    watchdog: AgentWatchdog | None = Field(
        default=None, description="Sessions that were ended for spec.limits. Absent: there is nothing to tell."
    )
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
    orphans: list[Orphan] = Field(
        default=[], max_length=32, description="What no object explains, the first by kind and name; see NoOrphans."
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
                "duration(self.limits.session.maxTransactionAge) >= duration('1m')",
                "limits.session.maxTransactionAge must be at least 1m",
            ),
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

    @property
    def trusted_networks(self) -> list[str]:
        """The sources trusted by address, as CIDRs; those of trusted Pods are known to agents only."""
        exact = [f"{text}/{128 if ':' in text else 32}" for text in self.spec.trusted.addresses]
        return sorted({*exact, *self.spec.trusted_cidrs})

    @property
    def ca_secret(self) -> tuple[str, str] | None:
        """Namespace and name of the Secret with the CA."""
        reference = self.spec.tls.ca_secret_ref
        return (reference.namespace, reference.name) if reference is not None else None

    @property
    def client_ssl_mode(self) -> SslMode:
        """How tenants' clients are to check the certificate: as strictly as they can with what is known of it."""
        if self.spec.tls.ca_secret_ref is None:
            return "require"
        if is_false(self.status.conditions, ConditionType.ENDPOINT_CERTIFICATE):
            return "verify-ca"
        return "verify-full"
