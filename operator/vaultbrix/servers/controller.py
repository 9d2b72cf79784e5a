"""PostgresServer: reach it, install the gate, keep the base NetworkPolicy, see how its agents do."""

from collections.abc import Container
from datetime import datetime, timedelta

from vaultbrix.access.controller import Parts
from vaultbrix.api.conditions import ConditionType, Reason
from vaultbrix.api.postgresserver import PostgresServer, PostgresServerStatus
from vaultbrix.ddl.gate import drift, schema
from vaultbrix.ddl.sweep import sweep
from vaultbrix.kube.cache import Context
from vaultbrix.kube.status import Conditions, write_status
from vaultbrix.postgres.admin import admin_connection
from vaultbrix.runtime.errors import Expected
from vaultbrix.servers import agents, facts

# How often a server that is well is looked at: switched-off guards are put back, a lost server is noticed.
CHECK_EVERY = timedelta(seconds=60)


async def reconcile(
    context: Context, parts: Parts, rehearsing: Container[str], server: PostgresServer, now: datetime
) -> datetime | None:
    """Make the server ready for tenants; ``rehearsing`` as of sweep. Raises Expected after the status says so."""
    conditions = Conditions(server, server.status.conditions, now)
    alive = await agents.report(context.kube, server, conditions)
    anchor = parts.flows.report(server, alive, conditions, now)
    parts.retention.report(context, server, conditions)
    tenants = context.tenants_of(server.metadata.name)
    verdicts = [verdict for tenant in tenants for verdict in context.verdicts(tenant.key, now).values()]
    status = server.status.model_copy(
        update={
            "observed_generation": server.metadata.generation,
            "tenants": len(tenants),
            "open_rules": sum(verdict.grant is not None for verdict in verdicts),
            "audit": anchor,
        }
    )
    try:
        async with admin_connection(context.kube, server) as connection:
            about = await facts.facts(connection)
            version = await schema.install(connection)
            findings = await drift.audit_gate(connection)
            await sweep(context, connection, rehearsing)
            await parts.logins.sweep(context, connection, now)
        await parts.policies.reconcile_base(context, server)
    except Expected as error:
        conditions.keep(ConditionType.GATE_INSTALLED)
        conditions.keep(ConditionType.GATE_INTACT)
        conditions.set(ConditionType.READY, False, error.reason, error.message)
        await _report(context, server, status, conditions)
        raise
    conditions.set(ConditionType.GATE_INSTALLED, True, Reason.INSTALLED, f"migration {version} is in force")
    conditions.set(
        ConditionType.GATE_INTACT,
        not findings,
        Reason.RISKS_FOUND if findings else Reason.INTACT,
        "; ".join(findings) or "nothing goes around the gate",
    )
    conditions.set(ConditionType.READY, True, Reason.READY, "tenants can be placed here")
    status = status.model_copy(
        update={
            "version": about.version,
            "system_identifier": about.system_identifier,
            "gate_version": version,
        }
    )
    await _report(context, server, status, conditions)
    return now + CHECK_EVERY


async def _report(
    context: Context, server: PostgresServer, status: PostgresServerStatus, conditions: Conditions
) -> None:
    wanted = status.model_copy(update={"conditions": conditions.all()})
    await write_status(context.kube, context.servers, server, wanted)
