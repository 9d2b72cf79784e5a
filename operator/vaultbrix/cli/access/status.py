"""``vaultbrix status``."""

from datetime import UTC, datetime
from typing import Any

from vaultbrix.access.countdown import countdown
from vaultbrix.access.decisions import deadline_of
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import Condition, ConditionType, Reason, find_condition, is_true
from vaultbrix.api.ddlapproval import Danger, DDLApproval
from vaultbrix.api.meta import Resource, rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.cli.client import User
from vaultbrix.cli.output import Format, document, say, short, show, table
from vaultbrix.ddl.review import worst
from vaultbrix.kube.store import R
from vaultbrix.runtime.durations import span
from vaultbrix.runtime.errors import Blocked
from vaultbrix.servers.overview import Overview, not_true, overview


async def status(user: User, namespace: str, form: Format) -> int:
    """Print what the person may see, and what they may not."""
    unseen: list[str] = []
    servers = await _visible(user, PostgresServer, "", unseen)
    tenants = await _visible(user, Tenant, namespace, unseen)
    rules = await _visible(user, AccessRule, namespace, unseen)
    approvals = await _visible(user, DDLApproval, namespace, unseen)
    now = datetime.now(UTC)
    found = overview(servers, tenants, rules, approvals, now)
    if form is Format.TABLE:
        _print(found, unseen, now)
    else:
        document(_report(found, unseen), form)
    return 0


async def _visible(user: User, model: type[R], namespace: str, unseen: list[str]) -> list[R]:
    """Of all namespaces, or of the person's own where only that is allowed; what is not allowed goes to ``unseen``."""
    try:
        return await user.objects(model, namespace)
    except Blocked as error:
        if error.reason is not Reason.FORBIDDEN:
            raise
        unseen.append(error.message)
    crd = model.crd  # type: ignore[attr-defined]  # every concrete kind has one
    if namespace or not crd.namespaced:
        return []
    own: list[R] = []
    try:
        own = await user.objects(model, user.namespace)
    except Blocked as error:
        if error.reason is not Reason.FORBIDDEN:
            raise
        unseen[-1] = error.message
    else:
        unseen[-1] = f"{crd.plural} of namespaces other than {user.namespace}"
    return own


def _ready(conditions: list[Condition]) -> Condition | None:
    return find_condition(conditions, ConditionType.READY)


def _why(conditions: list[Condition]) -> dict[str, str]:
    found = _ready(conditions)
    return {"reason": found.reason if found else "Waiting", "message": found.message if found else ""}


def _where(resource: Resource) -> dict[str, str]:
    return {"namespace": resource.metadata.namespace, "name": resource.metadata.name}


def _report(found: Overview, unseen: list[str]) -> dict[str, Any]:
    return {
        "servers": [
            {
                "name": s.metadata.name,
                "ready": is_true(s.status.conditions, ConditionType.READY),
                "version": s.status.version,
                "agents": [a.name for a in s.status.agents],
                "openRules": s.status.open_rules,
                "tenants": s.status.tenants,
                "notTrue": [c.dump() for c in not_true(s.status.conditions)],
            }
            for s in found.servers
        ],
        "tenantsNotReady": [{**_where(t), **_why(t.status.conditions)} for t in found.tenants_not_ready],
        "openRules": found.open_rules,
        "rulesEnding": [{**_where(r), "expiresAt": rfc3339(deadline_of(r))} for r in found.ending],
        "rulesNotReady": [{**_where(r), **_why(r.status.conditions)} for r in found.rules_not_ready],
        "approvalsWaiting": [
            {
                **_where(a),
                "requestedBy": a.spec.requested_by,
                "reason": a.spec.reason,
                "danger": worst(a.status.statements),
            }
            for a in found.approvals_waiting
        ],
        "notSeen": unseen,
    }


def _print(found: Overview, unseen: list[str], now: datetime) -> None:
    _servers(found)
    say()
    say(f"Tenants not ready: {len(found.tenants_not_ready) or 'none'}")
    for tenant in found.tenants_not_ready:
        why = _why(tenant.status.conditions)
        say(f"  {tenant.display}: {why['reason']}: {why['message']}")
    say(
        f"Rules: {found.open_rules} open, {len(found.ending)} of them ending within the hour, "
        f"{len(found.rules_not_ready)} not ready"
    )
    for rule in found.ending:
        say(f"  {rule.display}: {countdown(rule, now)}, {rule.spec.requested_by}: {short(rule.spec.reason)}")
    for rule in found.rules_not_ready:
        why = _why(rule.status.conditions)
        say(f"  {rule.display}: {why['reason']}: {why['message']}")
    say(f"Approvals that wait for a decision: {len(found.approvals_waiting) or 'none'}")
    for approval in found.approvals_waiting:
        age = span(now - approval.metadata.creation_timestamp)
        danger = worst(approval.status.statements) or Danger.UNKNOWN
        say(
            f"  {approval.display}: since {age}, loses: {danger.lower()}, {approval.spec.requested_by}: "
            f"{short(approval.spec.reason)}"
        )
    for approval in found.approvals_waiting[:1]:
        say(f"  to look at the first: vaultbrix ddl show {approval.metadata.name} -n {approval.metadata.namespace}")
    for text in unseen:
        say(f"Not seen: {text}")


def _servers(found: Overview) -> None:
    if not found.servers:
        say("Servers: none that you can see")
        return
    rows = []
    for server in found.servers:
        ready = _ready(server.status.conditions)
        rows.append(
            (
                server.metadata.name,
                "Waiting" if ready is None else "True" if ready.status == "True" else ready.reason,
                server.status.version or "",
                ", ".join(a.name for a in server.status.agents) or "none",
                server.status.open_rules,
                server.status.tenants,
            )
        )
    show(table(("SERVER", "READY", "VERSION", "AGENTS", "OPEN RULES", "TENANTS"), rows))
    for server in found.servers:
        for condition in not_true(server.status.conditions):
            say(f"  {server.metadata.name}: {condition.type} is {condition.status}: "
                f"{condition.reason}: {condition.message}")  # fmt: skip
