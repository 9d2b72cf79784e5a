"""Looks for orphans on each server, now and then and after a start, and ends those that are ours and harmless.

A look costs what is there, and no object is asked for one by one. The server's own controller writes what was found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg
import structlog

from vaultbrix.access.controller import Access
from vaultbrix.access.decisions import rule_login
from vaultbrix.api.conditions import ConditionType, Reason, State, is_true
from vaultbrix.api.login_names import logins_of
from vaultbrix.api.orphan import Orphan, OrphanKind
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.dataapi.serving.decisions import LISTENER, rest_login
from vaultbrix.ddl.controller import Runs
from vaultbrix.ddl.decisions import login_name, rehearsal_login
from vaultbrix.ddl.gate import passes
from vaultbrix.kube import events
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube, Object
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.resources import NETWORK_POLICIES, SECRETS, resource_type
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.postgres.connect import classify
from vaultbrix.postgres.server_secret import servers_of
from vaultbrix.runtime.errors import Blocked, Expected
from vaultbrix.servers.orphans import store
from vaultbrix.servers.orphans.decisions import (
    GRACE,
    Explained,
    ObjectSeen,
    OrphanKey,
    Present,
    Suspect,
    ended_message,
    first_seen,
    is_complete,
    lasting,
    no_orphans,
    orphans,
    unexplained,
)

log = structlog.get_logger(__name__)

ENDED_EVENT = "OrphansEnded"
"""Reason of the event that says what was ended."""

LOOK_EVERY = timedelta(minutes=5)
# A server that does not answer holds up the look at one other.
WORKERS = 2

_MADE_HERE = "app.kubernetes.io/managed-by=vaultbrix"
SERVER_LABEL = "vaultbrix.com/server"
# Logins of processes, which no object of ours stands for.
_PROCESSES = frozenset({"vaultbrix_agent", LISTENER})


@dataclass
class _Known:
    """Of one server: since when each suspect is unexplained, what its status is to list, and what is to be said."""

    since: dict[OrphanKey, datetime] = field(default_factory=dict)
    listed: list[Orphan] | None = None
    state: State | None = None


class Orphans:
    """What was found on all servers.

    ``changed``, set by the server's own controller, is called with the name of a server whose status may differ.
    """

    def __init__(
        self, registry: Registry, kube: Kube, cache: Cache, admin: Admin, *, access: Access, runs: Runs
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._admin = admin
        self._access = access
        self._runs = runs
        self._known: dict[str, _Known] = {}
        self._queue = registry.queue("Orphans", self.look, workers=WORKERS)
        self.changed: Callable[[str], None] = lambda _: None
        registry.on_change(PostgresServer, self._server_changed)
        registry.on_resync(self._look_at_all)

    def state(self, server: PostgresServer) -> State | None:
        """What NoOrphans says; None: not known yet, what held goes on to hold."""
        known = self._known.get(server.metadata.name)
        return known.state if known is not None else None

    def listed(self, server: PostgresServer) -> list[Orphan]:
        """What the status is to list."""
        known = self._known.get(server.metadata.name)
        return server.status.orphans if known is None or known.listed is None else known.listed

    async def ended(self, server: PostgresServer, names: Sequence[str]) -> None:
        """Say in an event what was ended on a server, here or by who sweeps up after itself."""
        if names:
            await events.warn(self._kube, server, ENDED_EVENT, ended_message(names), component="vaultbrix-operator")

    def _server_changed(self, change: Change[PostgresServer]) -> None:
        name = change.resource.metadata.name
        if change.gone:
            self._known.pop(name, None)
        elif change.decisive:
            self._queue.add(name)

    def _look_at_all(self) -> None:
        for server in self._cache.servers:
            self._queue.add(server.metadata.name)

    async def look(self, name: str) -> datetime | None:
        """Look at one server; returns when to look again. Raises Expected after the status says so."""
        server = self._cache.servers.get("", name)
        if server is None:
            self._known.pop(name, None)
            return None
        known = self._known.setdefault(name, _Known({(o.kind, o.name): o.since for o in server.status.orphans}))
        before = (known.listed, known.state)
        try:
            if not is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
                known.state = State(None, Reason.SERVER_NOT_READY, "the gate is not installed yet; see GateInstalled")
                return None
            return await self._compare(server, known)
        except Blocked as error:
            # After a failure that may pass by itself, what held goes on to hold.
            known.state = State(None, error.reason, f"nobody can look: {error.message}")
            raise
        finally:
            if (known.listed, known.state) != before:
                self.changed(name)

    async def _compare(self, server: PostgresServer, known: _Known) -> datetime:
        name = server.metadata.name
        # Read first: the object that explains what is made meanwhile is known by then.
        present = await self._present(server)
        now = datetime.now(UTC)
        suspects = unexplained(present, self._explained(now), name)
        known.since = first_seen(suspects, known.since, now)
        found = lasting(suspects, known.since, now)
        if found:
            if not await self._cache_is_complete():
                log.warning("no verdict on orphans: the API server has objects that are not known here", server=name)
                return now + GRACE
            # By what is known now: an object may have come since.
            explained = self._explained(now)
            found = [suspect for suspect in unexplained(present, explained, name) if suspect in found]
        ended = await self._end(server, [suspect for suspect in found if suspect.harmless])
        await self.ended(server, [f"{suspect.kind} {suspect.name}" for suspect in ended])
        remaining = [suspect for suspect in found if suspect not in ended]
        known.listed, known.state = orphans(remaining, known.since), no_orphans(remaining)
        return now + (LOOK_EVERY if len(found) == len(suspects) else GRACE)

    async def _present(self, server: PostgresServer) -> Present:
        async with self._admin.connection(server) as connection:
            logins = await store.logins(connection)
            schemas = await store.unclaimed_schemas(connection)
            lines = await store.lines_for_tenants(connection)
            open_passes = await store.open_passes(connection)
        secrets = await self._kube.list(SECRETS, self._runs.context.jobs.namespace, labels=_MADE_HERE, meta=True)
        labels = f"{_MADE_HERE},{SERVER_LABEL}={server.metadata.name}"
        policies = await self._kube.list(NETWORK_POLICIES, labels=labels)
        return Present(
            logins=logins,
            schemas=schemas,
            lines=lines,
            passes=open_passes,
            secrets=[_seen(item) for item in secrets["items"] or ()],
            policies=[_seen(item) for item in policies["items"] or ()],
        )

    def _explained(self, now: datetime) -> Explained:
        cache = self._cache
        tenants, servers = list(cache.tenants), list(cache.servers)
        approvals = {approval.metadata.uid for approval in cache.approvals}
        verdicts = [v for tenant in tenants for v in self._access.verdicts.of_tenant(tenant.key, now).values()]
        return Explained(
            logins=_PROCESSES
            | {login for tenant in tenants for login in logins_of(tenant.role)}
            | {rest_login(tenant.role) for tenant in tenants if tenant.spec.data_api is not None}
            | {rule_login(role, uid) for role, uid in self._access.logins.alive(now)}
            | {name(uid) for uid in approvals for name in (login_name, rehearsal_login)},
            schemas={tenant.role for tenant in tenants},
            let_in={
                (login, cidr)
                for v in verdicts
                if v.grant is not None
                for login in v.grant.logins
                for cidr in v.grant.cidrs
            },
            uids={resource.metadata.uid for objects in cache.stores.values() for resource in objects},
            policies={place for server in servers for place in self._access.policies.places(server)},
            servers={server.metadata.name for server in servers},
        )

    async def _cache_is_complete(self) -> bool:
        """Ask the API server, since objects that cannot be read here, say of a newer release, are not in the cache."""
        for model, objects in self._cache.stores.items():
            listed: set[str] = set()
            async for page in self._kube.pages(resource_type(model), meta=True):
                listed.update(item["metadata"]["uid"] for item in page["items"] or ())
            if not is_complete({resource.metadata.uid for resource in objects}, listed):
                return False
        return True

    async def _end(self, server: PostgresServer, suspects: Sequence[Suspect]) -> list[Suspect]:
        """End what is harmless; returns what has ended. What fails is left to the next look, and keeps nothing else."""
        ended = []
        async with self._admin.connection(server) as connection:
            for suspect in suspects:
                try:
                    if await self._end_one(connection, suspect):
                        ended.append(suspect)
                except psycopg.Error as error:
                    if connection.broken:
                        raise
                    log.warning("orphan not ended yet", orphan=suspect.name, message=classify(error).message)
                except Expected as error:
                    log.warning("orphan not ended yet", orphan=suspect.name, message=error.message)
        return ended

    async def _end_one(self, connection: psycopg.AsyncConnection, suspect: Suspect) -> bool:
        match suspect.kind:
            case OrphanKind.LOGIN:
                return await store.end_login(connection, suspect.name)
            case OrphanKind.PASS:
                await passes.revoke_pass(connection, suspect.name)
            case OrphanKind.SECRET:
                await self._kube.delete(SECRETS, *suspect.place, uid=suspect.uid)
            case OrphanKind.NETWORK_POLICY:
                await self._kube.delete(NETWORK_POLICIES, *suspect.place, uid=suspect.uid)
            case _:
                return False
        return True


def _seen(item: Object) -> ObjectSeen:
    meta = item["metadata"]
    owners = meta.get("ownerReferences") or []
    servers = servers_of(item)
    return ObjectSeen(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        owners=tuple(owner["uid"] for owner in owners if owner["apiVersion"].startswith("vaultbrix.com/")),
        server=(meta.get("labels") or {}).get(SERVER_LABEL) or (servers[0] if servers else ""),
    )
