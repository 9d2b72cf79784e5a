"""Decides what a Tenant's role should be, and what the Tenant's status says. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from vaultbrix.api.conditions import ConditionType, Reason, State, conditions, find_condition, is_true, ready_states
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import AutoApprove, CredentialsStatus, Tenant, TenantStatus
from vaultbrix.audit.retention.decisions import shorter_than_server
from vaultbrix.ddl.gate.patterns import RelationPattern, relation_pattern
from vaultbrix.runtime.errors import Blocked, Expected
from vaultbrix.tenants.placement import Owner, owner_of

# With these failures the role is not this Tenant's; after any other one Provisioned stays as it was.
_NOT_OURS = frozenset(
    {
        Reason.SLUG_TAKEN,
        Reason.SERVER_NOT_FOUND,
        Reason.NAMESPACE_NOT_ALLOWED,
        Reason.TOO_MANY_TENANTS,
        Reason.DATA_RETAINED,
    }
)


@dataclass(frozen=True)
class TenantRole:
    """A tenant's role, and schema of that name, as they should be. ``owner`` is the Tenant that it is for.

    ``additive`` says that ALTERs which only add pass without an approval, ``rebuildable`` which relations may be
    dropped without one; None leaves that as it is.
    """

    role: str
    owner: Owner
    login: bool
    connection_limit: int
    settings: Mapping[str, str]
    additive: bool | None = None
    rebuildable: frozenset[RelationPattern] | None = None


def tenant_role(tenant: Tenant) -> TenantRole:
    """The role as the Tenant's spec asks for it."""
    return TenantRole(
        role=tenant.role,
        owner=owner_of(tenant),
        login=not tenant.spec.suspended,
        connection_limit=tenant.spec.connection_limit,
        settings=tenant.spec.settings.dump(),
        additive=AutoApprove.ADDITIVE in tenant.spec.ddl_policy.auto_approve,
        rebuildable=frozenset(relation_pattern(text, tenant.role) for text in tenant.spec.ddl_policy.rebuildable),
    )


def ready_server(tenant: Tenant, server: PostgresServer | None) -> PostgresServer:
    """The server, once tenants can be placed there. Raises Blocked until then."""
    name = tenant.spec.server_ref.name
    if server is None:
        raise Blocked(
            Reason.SERVER_NOT_FOUND,
            f"PostgresServer {name} does not exist; create it, or correct spec.serverRef in a new Tenant",
        )
    if not is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
        raise Blocked(Reason.SERVER_NOT_READY, f"PostgresServer {name} is not ready; see its conditions")
    if server.deleting and not is_true(tenant.status.conditions, ConditionType.PROVISIONED):
        raise Blocked(Reason.SERVER_NOT_READY, f"PostgresServer {name} is being deleted and takes no new Tenants")
    return server


def as_specified_before(tenant: Tenant) -> bool:
    """Whether the role was as this spec asks for once, so that a difference is somebody else's doing."""
    provisioned = find_condition(tenant.status.conditions, ConditionType.PROVISIONED)
    return (
        provisioned is not None
        and provisioned.status == "True"
        and provisioned.observed_generation == tenant.metadata.generation
    )


def status(
    tenant: Tenant,
    server: PostgresServer | None,
    failure: Expected | None,
    now: datetime,
    *,
    secret_written: bool,
    credentials: CredentialsStatus | None = None,
) -> TenantStatus:
    """The whole status after an attempt to make the Tenant as specified.

    ``failure`` is what stood in the way; ``secret_written`` says that the credentials were in place by then, and
    ``credentials`` which of them PostgreSQL takes, None where that is not known to have changed.
    """
    if failure is None:
        in_vain = shorter_than_server(server, tenant) if server is not None else ""
        ready = State(True, Reason.READY, "; ".join(filter(None, ("role, schema and credentials are ready", in_vain))))
        provisioned: State | None = State(True, Reason.PROVISIONED, f"role and schema {tenant.role} are as specified")
        if tenant.spec.suspended:
            ready = State(False, Reason.TENANT_SUSPENDED, "spec.suspended is true: nobody logs in")
    else:
        ready = State(False, failure.reason, failure.message)
        provisioned = ready if failure.reason in _NOT_OURS else None
    in_secret = State(True, Reason.CREDENTIALS_WRITTEN, f"Secret {tenant.secret_name}") if secret_written else None
    generation = tenant.metadata.generation
    states = {
        ConditionType.CREDENTIALS_READY: in_secret,
        ConditionType.PROVISIONED: provisioned,
        **ready_states(ready),
    }
    return TenantStatus(
        observed_generation=generation,
        role=tenant.role,
        schema_name=tenant.role,
        secret_name=tenant.secret_name,
        credentials=credentials or tenant.status.credentials,
        data_api=tenant.status.data_api,
        conditions=conditions(states, tenant.status.conditions, generation=generation, now=now),
    )
