"""PostgresServer: reach it, install the gate, keep the base NetworkPolicy."""

from datetime import datetime, timedelta

from vaultbrix.adapters import gate
from vaultbrix.adapters.kube import NETWORK_POLICIES
from vaultbrix.api.conditions import ConditionType, Reason
from vaultbrix.api.postgresserver import PostgresServer, PostgresServerStatus
from vaultbrix.controllers.admin import admin_connection
from vaultbrix.controllers.context import Context
from vaultbrix.controllers.ddlrun import sweep
from vaultbrix.controllers.status import Conditions, write_status
from vaultbrix.domain.render import base_network_policy
from vaultbrix.runtime.errors import Expected

# How often a server that is well is looked at: switched-off guards are put back, a lost server is noticed.
CHECK_EVERY = timedelta(seconds=60)


async def reconcile(context: Context, server: PostgresServer, now: datetime) -> datetime | None:
    """Make the server ready for tenants. Raises Expected after the status says so."""
    conditions = Conditions(server, server.status.conditions, now)
    status = server.status.model_copy(update={"observed_generation": server.metadata.generation})
    try:
        async with admin_connection(context.kube, server) as connection:
            facts = await gate.facts(connection)
            version = await gate.install(connection)
            await sweep(context, connection)
        await _base_policy(context, server)
    except Expected as error:
        conditions.keep(ConditionType.GATE_INSTALLED)
        conditions.set(ConditionType.READY, False, error.reason, error.message)
        await _report(context, server, status, conditions)
        raise
    conditions.set(ConditionType.GATE_INSTALLED, True, Reason.INSTALLED, f"migration {version} is in force")
    conditions.set(ConditionType.READY, True, Reason.READY, "tenants can be placed here")
    status = status.model_copy(
        update={
            "version": facts.version,
            "system_identifier": facts.system_identifier,
            "gate_version": version,
        }
    )
    await _report(context, server, status, conditions)
    return now + CHECK_EVERY


async def _base_policy(context: Context, server: PostgresServer) -> None:
    spec = server.spec
    if spec.namespace is None:
        return
    policy = base_network_policy(
        server=server.metadata.name,
        namespace=spec.namespace,
        pod_selector=spec.pod_selector,
        port=spec.port,
        trusted=spec.trusted_cidrs,
    )
    await context.kube.apply(NETWORK_POLICIES, policy)


async def _report(
    context: Context, server: PostgresServer, status: PostgresServerStatus, conditions: Conditions
) -> None:
    wanted = status.model_copy(update={"conditions": conditions.all()})
    await write_status(context.kube, context.servers, server, wanted)
