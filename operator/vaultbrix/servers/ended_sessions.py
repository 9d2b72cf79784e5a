"""Writes events about sessions that agents' watchdogs ended: on the Tenant, and on the rule that let them in.

Agents only report on servers and rules; they may not write into the namespaces of tenants.
"""

from dataclasses import dataclass
from typing import Any

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube import events
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.store import Change

REASON = "SessionsEnded"


@dataclass(frozen=True)
class Notice:
    """What an event about an object of a tenant is to say. ``server`` is where the sessions were."""

    kind: type[Resource]
    namespace: str
    name: str
    server: str
    message: str


def register(registry: Registry, kube: Kube, cache: Cache) -> None:
    """Have an event written when a report tells of sessions that it did not tell of before."""

    async def write(notice: Notice) -> None:
        about = cache.stores[notice.kind].get(notice.namespace, notice.name)
        tenant = about if isinstance(about, Tenant) else cache.tenant_of(about) if about is not None else None
        # An agent speaks for the tenants of its own server only.
        if about is not None and tenant is not None and notice.server in ("", tenant.spec.server_ref.name):
            await events.warn(kube, about, REASON, notice.message, component="vaultbrix-operator")

    queue = registry.queue("EndedSessions", write, workers=1)

    def changed(change: Change[Any]) -> None:
        for notice in notices(change.before, change.after):
            queue.add(notice)

    registry.on_change(PostgresServer, changed)
    registry.on_change(AccessRule, changed)


def notices(before: Resource | None, after: Resource | None) -> list[Notice]:
    """Return what is new in the reports on an object. What was there when it was first seen was told by then."""
    match before, after:
        case PostgresServer(), PostgresServer():
            return _on_tenants(before, after)
        case AccessRule(), AccessRule():
            return _on_rule(before, after)
    return []


def _on_tenants(before: PostgresServer, after: PostgresServer) -> list[Notice]:
    known = {(agent, ended.tenant, ended.limit): ended.sessions for agent, ended in _ended(before)}
    found = []
    for agent, ended in _ended(after):
        earlier = known.get((agent, ended.tenant, ended.limit), 0)
        if ended.sessions == earlier:
            continue
        # A lower number is that of an agent that was started anew.
        count = ended.sessions - earlier if ended.sessions > earlier else ended.sessions
        namespace, _, name = ended.tenant.partition("/")
        message = f"{sessions(count)} ended by the watchdog of {agent}: {ended.message}; {_limit(ended.limit)}"
        found.append(Notice(Tenant, namespace, name, after.metadata.name, message))
    return found


def _limit(name: str) -> str:
    # What PostgreSQL has for all is no field, and its name no single word.
    return f"PostgreSQL's {name}" if " " in name else f"limits.{name}"


def _ended(server: PostgresServer) -> list[tuple[str, Any]]:
    return [(a.name, ended) for a in server.status.agents if a.watchdog is not None for ended in a.watchdog.ended]


def _on_rule(before: AccessRule, after: AccessRule) -> list[Notice]:
    if before.metadata.uid != after.metadata.uid:
        return []
    known = {agent.name: agent.ended_by_watchdog for agent in before.status.agents}
    namespace, name = after.key
    return [
        Notice(
            AccessRule,
            namespace,
            name,
            "",
            f"{sessions(agent.ended_by_watchdog - known.get(agent.name, 0))} ended by the watchdog of {agent.name}: "
            f"{agent.watchdog}",
        )
        for agent in after.status.agents
        if agent.ended_by_watchdog > known.get(agent.name, 0)
    ]


def sessions(count: int) -> str:
    """``1 session``, ``2 sessions``."""
    return f"{count} session{'s' if count != 1 else ''}"
