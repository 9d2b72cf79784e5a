"""Tenant: Secret first, then role and schema; on deletion, lock or drop."""

import secrets
from datetime import datetime

from vaultbrix.api.conditions import ConditionType, Reason, is_true
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import AutoApprove, DeletionPolicy, Tenant, TenantStatus
from vaultbrix.ddl.gate import policy
from vaultbrix.kube.cache import Context
from vaultbrix.kube.status import Conditions, set_finalizer, write_status
from vaultbrix.postgres import scram
from vaultbrix.postgres.admin import admin_connection
from vaultbrix.runtime.errors import Blocked, Expected
from vaultbrix.tenants import role as tenants
from vaultbrix.tenants import rule_logins
from vaultbrix.tenants.role import TenantRole
from vaultbrix.tenants.secret import CredentialsSecret, ensure_secret

FINALIZER = "vaultbrix.com/tenant"

# Reasons that say that the role is not this tenant's; after any other failure it stays as it was.
_NOT_OURS = frozenset({Reason.SLUG_TAKEN, Reason.SERVER_NOT_FOUND})


async def reconcile(context: Context, tenant: Tenant, now: datetime) -> datetime | None:
    """Make role, schema and Secret as the Tenant says. Raises Expected after the status says so."""
    conditions = Conditions(tenant, tenant.status.conditions, now)
    if tenant.deleting:
        try:
            await _finalize(context, tenant)
        except Expected as error:
            _explain(conditions, error)
            await _report(context, tenant, conditions)
            raise
        return None
    tenant = await set_finalizer(context.kube, tenant, FINALIZER, present=True)
    try:
        server = _ready_server(context, tenant)
        password = await _credentials(context, tenant, server)
        conditions.set(
            ConditionType.CREDENTIALS_READY, True, Reason.CREDENTIALS_WRITTEN, f"Secret {tenant.secret_name}"
        )
        async with admin_connection(context.kube, server) as connection:
            salt = secrets.token_bytes(scram.SALT_BYTES)
            await tenants.provision(connection, tenant_role(tenant), password, salt)
            additive = AutoApprove.ADDITIVE in tenant.spec.ddl_policy.auto_approve
            await policy.set_policy(connection, tenant.role, additive=additive)
    except Expected as error:
        _explain(conditions, error)
        await _report(context, tenant, conditions)
        raise
    conditions.set(
        ConditionType.PROVISIONED, True, Reason.PROVISIONED, f"role and schema {tenant.role} are as specified"
    )
    if tenant.spec.suspended:
        conditions.set(ConditionType.READY, False, Reason.TENANT_SUSPENDED, "spec.suspended is true: nobody logs in")
    else:
        conditions.set(ConditionType.READY, True, Reason.READY, "role, schema and credentials are ready")
    await _report(context, tenant, conditions)
    return None


def _explain(conditions: Conditions, error: Expected) -> None:
    if not conditions.is_true(ConditionType.CREDENTIALS_READY):
        conditions.keep(ConditionType.CREDENTIALS_READY)
    if error.reason in _NOT_OURS:
        conditions.set(ConditionType.PROVISIONED, False, error.reason, error.message)
    else:
        conditions.keep(ConditionType.PROVISIONED)
    conditions.set(ConditionType.READY, False, error.reason, error.message)


async def _report(context: Context, tenant: Tenant, conditions: Conditions) -> None:
    wanted = TenantStatus(
        observed_generation=tenant.metadata.generation,
        role=tenant.role,
        schema_name=tenant.role,
        secret_name=tenant.secret_name,
        conditions=conditions.all(),
    )
    await write_status(context.kube, context.tenants, tenant, wanted)


def _ready_server(context: Context, tenant: Tenant) -> PostgresServer:
    server = context.server_of(tenant)
    name = tenant.spec.server_ref.name
    if server is None:
        raise Blocked(
            Reason.SERVER_NOT_FOUND,
            f"PostgresServer {name} does not exist; create it, or correct spec.serverRef in a new Tenant",
        )
    if not is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
        raise Blocked(Reason.SERVER_NOT_READY, f"PostgresServer {name} is not ready; see its conditions")
    return server


def tenant_role(tenant: Tenant) -> TenantRole:
    """The role as the Tenant wants it."""
    return TenantRole(
        role=tenant.role,
        owner=tenant.key,
        login=not tenant.spec.suspended,
        connection_limit=tenant.spec.connection_limit,
        settings=tenant.spec.settings.dump(),
    )


async def _credentials(context: Context, tenant: Tenant, server: PostgresServer) -> str:
    wanted = CredentialsSecret(
        owner=tenant,
        name=tenant.secret_name,
        server=server,
        role=tenant.role,
        schema=tenant.role,
        remedy="name another in spec.credentials.secretName",
    )
    return await ensure_secret(context.kube, wanted)


async def _finalize(context: Context, tenant: Tenant) -> None:
    if FINALIZER not in tenant.metadata.finalizers:
        return
    server = context.server_of(tenant)
    # A server whose object is gone cannot be reached and is no longer ours to change.
    if server is not None and is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
        async with admin_connection(context.kube, server) as connection:
            await tenants.lock(connection, tenant.role, tenant.key)
            # Rules find their server through the Tenant, so they cannot.
            await rule_logins.end_of_tenant(connection, tenant.role, tenant.key)
            if tenant.spec.deletion_policy is DeletionPolicy.DELETE:
                await tenants.drop(connection, tenant.role, tenant.key)
    await set_finalizer(context.kube, tenant, FINALIZER, present=False)
