"""``vaultbrix revoke`` and ``vaultbrix extend``."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from vaultbrix.access import request
from vaultbrix.access.countdown import countdown, ended_at
from vaultbrix.access.decisions import deadline_of
from vaultbrix.access.progress import Progress, closed, lacking, opening, sessions_ended
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.cli.client import Failed, User
from vaultbrix.cli.output import say, warn
from vaultbrix.kube.client import Conflict, NotFound, resource_type
from vaultbrix.runtime import usage

# Agents and operator write the status of a rule meanwhile, which makes an edit of what was read a conflict.
EDIT_ATTEMPTS = 10


async def revoke(user: User, names: Sequence[str], *, wait: bool, timeout: str) -> int:
    """End the rules, all of which must exist. 1 when not all are reported closed in time."""
    patience = usage.parse_span("--timeout", timeout).total_seconds()
    found = [await user.find(AccessRule, name) for name in dict.fromkeys(names)]
    ending = []
    for rule in found:
        now = datetime.now(UTC)
        if rule.status.closed_at is not None and ended_at(rule, now) is not None:
            say(f"{rule.metadata.name}: {countdown(rule, now)} ({rule.status.closed_reason}); nothing to do")
            continue
        body = {"spec": {"revoked": True}}
        raw = await user.kube.merge(resource_type(AccessRule), rule.metadata.namespace, rule.metadata.name, body)
        ending.append(AccessRule.parse(raw))
        if not wait:
            say(f"{rule.metadata.name}: revoked")
    return max([await _ended(user, rule, patience, timeout) for rule in ending if wait], default=0)


async def _ended(user: User, rule: AccessRule, patience: float, timeout: str) -> int:
    rule, _, done = await user.follow(rule, closed, patience)
    name, agents = rule.metadata.name, rule.status.agents
    if done:
        by = f"closed by {', '.join(a.name for a in agents)}" if agents else "it was not open"
        count = sessions_ended(rule)
        say(f"{name}: revoked; {by}; {count} {'session' if count == 1 else 'sessions'} ended")
        return 0
    warn(f"error: {name}: revoked, but not reported closed after {timeout}:")
    for agent in agents:
        left = [n for n, there in (("kernel", agent.kernel), ("pg_hba", agent.hba), ("sessions", not agent.sessions))
                if there]  # fmt: skip
        if left or agent.error or agent.generation < rule.metadata.generation:
            warn(f"  {agent.name}: {agent.error or 'has not reported'} (still open: {', '.join(left) or 'nothing'})")
    if not agents:
        warn("  no agent has reported on it: they are away, or never had it in force")
    warn(f"it ends at {rfc3339(deadline_of(rule))} at the latest, whatever runs or does not")
    return 1


async def extend(user: User, name: str, lasting: str | None, until: str | None, *, wait: bool, timeout: str) -> int:
    """Move the deadline. 1 when the change is not in force in time."""
    patience = usage.parse_span("--timeout", timeout).total_seconds()
    if (lasting is None) == (until is None):
        raise usage.Misused("give exactly one of --for (so much longer, such as 1h) and --until (a time)")
    more = usage.parse_span("--for", lasting) if lasting is not None else None
    end = usage.parse_time("--until", until) if until is not None else None
    rule = await _edited(user, name, more, end)
    if wait:
        rule, _, done = await user.follow(
            rule, lambda r: opening(r, datetime.now(UTC)) is not Progress.WAITING, patience
        )
        if not done or opening(rule, datetime.now(UTC)) is Progress.NEVER:
            warn(f"error: {name}: changed, but not in force{'' if done else f' after {timeout}'}:")
            for condition in lacking(rule):
                warn(f"  {condition.type} is {condition.status}: {condition.reason}: {condition.message}")
            return 1
    say(f"{name}: until {rfc3339(deadline_of(rule))} ({countdown(rule, datetime.now(UTC))})")
    return 0


async def _edited(user: User, name: str, more: timedelta | None, end: datetime | None) -> AccessRule:
    server: PostgresServer | None = None
    for attempt in range(EDIT_ATTEMPTS):
        rule = await user.find(AccessRule, name)
        if attempt == 0:
            server = await _server(user, rule)
        spec = request.extension(rule, more=more, until=end, server=server, now=datetime.now(UTC))
        # Of what was read and no later state: two who extend at once must not both add to the same deadline.
        body = {"metadata": {"resourceVersion": rule.metadata.resource_version}, "spec": spec}
        try:
            raw = await user.kube.merge(resource_type(AccessRule), rule.metadata.namespace, name, body)
        except Conflict:
            continue
        except NotFound:
            raise Failed(f"AccessRule {name} was deleted meanwhile; that ends it") from None
        return AccessRule.parse(raw)
    raise Failed(f"AccessRule {name} changes all the time; try again")


async def _server(user: User, rule: AccessRule) -> PostgresServer | None:
    try:
        found = await user.kube.get(resource_type(Tenant), *rule.tenant_key)
    except NotFound:
        return None
    server, _ = await user.server_of(Tenant.parse(found))
    return server
