"""Notices within seconds that somebody else changed a role of ours, by one cheap query for each server.

A fingerprint of each role is compared with the one that it had when it was last seen to be as it should be. Whoever the
role belongs to looks at it then, puts it right, and says so.
"""

from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime, timedelta

import psycopg

from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.postgres.fingerprints import DIGEST, FINGERPRINTS
from vaultbrix.postgres.roles import Outcome
from vaultbrix.tenants.drift.restored import Restored

LOOK_EVERY = timedelta(seconds=3)

WORKERS = 8

# What may have been changed while no operator looked.
_FROM_BEFORE = timedelta(hours=1)
# Clocks of PostgreSQL and of the operator, give or take.
_SLACK = timedelta(seconds=10)

Listener = Callable[[PostgresServer, Set[str]], None]


class RoleDrift:
    """Looks at the roles of each server that is ready, and tells listeners which of them somebody else changed.

    A role that was not seen to be right yet counts as changed. Each change is told once.
    """

    def __init__(self, registry: Registry, kube: Kube, cache: Cache, admin: Admin) -> None:
        self._cache = cache
        self._admin = admin
        self._restored = Restored(registry, kube, cache, admin)
        self._servers: dict[str, _Server] = {}
        self._listeners: list[Listener] = []
        self._queue = registry.queue("RoleDrift", self.look, workers=WORKERS)
        registry.on_change(PostgresServer, self.server_changed)
        registry.on_resync(self.resync)

    def on_change(self, listener: Listener) -> None:
        """Have a listener called with the roles of a server that were changed, be they its business or not."""
        self._listeners.append(listener)

    def seen_right(self, server: PostgresServer, role: str, outcome: Outcome) -> None:
        """Note that the role was as it should be when it had this fingerprint."""
        if outcome.fingerprint is not None:
            self._of(server).right[role] = outcome.fingerprint
            self._of(server).changed_since.pop(role, None)

    async def tell(self, about: Resource, server: PostgresServer, role: str, changed: Sequence[str]) -> None:
        """Say in events what of the role somebody had changed, and who as soon as that is on record.

        ``about`` is the object whose role it is. To be called before ``seen_right``. Never raises Expected.
        """
        since = self._of(server).changed_since.pop(role, datetime.now(UTC) - _FROM_BEFORE)
        await self._restored.tell(about, server, role, changed, since - _SLACK)

    def server_changed(self, change: Change[PostgresServer]) -> None:
        """Look at a server that has become ready."""
        if change.decisive:
            self._queue.add(change.resource.metadata.name)

    def resync(self) -> None:
        """Look at every server, and from then on every few seconds."""
        for server in self._cache.servers:
            self._queue.add(server.metadata.name)

    async def look(self, name: str) -> datetime | None:
        """Tell what was changed on the server; returns when to look again. Raises Expected."""
        server = self._cache.servers.get("", name)
        if server is None or not is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
            self._servers.pop(name, None)
            return None
        async with self._admin.connection(server) as connection:
            changed = await self._of(server).changed(connection, datetime.now(UTC))
        if changed:
            for listener in self._listeners:
                listener(server, changed)
        return datetime.now(UTC) + LOOK_EVERY

    def _of(self, server: PostgresServer) -> "_Server":
        return self._servers.setdefault(server.metadata.name, _Server())


class _Server:
    """What is known of the roles of one server: fingerprints when they were right, and when that was last told.

    ``changed_since`` has, for those that were then seen changed, when they were last seen as before.
    """

    def __init__(self) -> None:
        self.right: dict[str, str] = {}
        self.changed_since: dict[str, datetime] = {}
        self._looked_at: datetime | None = None
        self._told: dict[str, str] = {}
        self._digest = ""

    async def changed(self, connection: psycopg.AsyncConnection, now: datetime) -> Set[str]:
        """Roles that are not as they were when they were right, or are gone; each change once."""
        row = await (await connection.execute(DIGEST)).fetchone()
        looked_at, self._looked_at = self._looked_at, now
        if row == (self._digest,):
            return frozenset()
        fingerprints: dict[str, str] = dict(await (await connection.execute(FINGERPRINTS)).fetchall())
        gone = self.right.keys() - fingerprints.keys()
        for role in gone:
            del self.right[role]
            self.changed_since.pop(role, None)
        changed = {
            role
            for role, fingerprint in fingerprints.items()
            if fingerprint not in (self.right.get(role), self._told.get(role))
        }
        for role in changed & (self.right.keys() | self._told.keys()):
            self.changed_since.setdefault(role, looked_at or now - _FROM_BEFORE)
        self._told = {role: fingerprints[role] for role in changed} | {
            role: told for role, told in self._told.items() if role in fingerprints and role not in changed
        }
        assert row is not None
        self._digest = row[0]
        return changed | gone
