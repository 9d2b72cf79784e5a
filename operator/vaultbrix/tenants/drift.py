"""Notices within seconds that somebody else changed a role of ours, by one cheap query for each server.

A fingerprint of each role is compared with the one that it had when it was last seen to be as it should be. Whoever the
role belongs to looks at it then, puts it right, and says so.
"""

from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime, timedelta

import psycopg

from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.postgres.fingerprints import DIGEST, FINGERPRINTS
from vaultbrix.postgres.roles import Outcome
from vaultbrix.runtime.visible import visible

DRIFT_EVENT = "RoleRestored"
"""Reason of the event that says what of a role somebody else had changed."""

LOOK_EVERY = timedelta(seconds=3)

WORKERS = 8

Listener = Callable[[PostgresServer, Set[str]], None]


def put_back(role: str, changed: Sequence[str]) -> str:
    """What the event says of a role that was put right."""
    return visible(f"role {role} was changed by somebody else and is as specified again: {', '.join(changed)}")


class RoleDrift:
    """Looks at the roles of each server that is ready, and tells listeners which of them somebody else changed.

    A role that was not seen to be right yet counts as changed. Each change is told once.
    """

    def __init__(self, registry: Registry, cache: Cache, admin: Admin) -> None:
        self._cache = cache
        self._admin = admin
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
            changed = await self._of(server).changed(connection)
        if changed:
            for listener in self._listeners:
                listener(server, changed)
        return datetime.now(UTC) + LOOK_EVERY

    def _of(self, server: PostgresServer) -> "_Server":
        return self._servers.setdefault(server.metadata.name, _Server())


class _Server:
    """What is known of the roles of one server: fingerprints when they were right, and when that was last told."""

    def __init__(self) -> None:
        self.right: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._digest = ""

    async def changed(self, connection: psycopg.AsyncConnection) -> Set[str]:
        """Roles that are not as they were when they were right, or are gone; each change once."""
        row = await (await connection.execute(DIGEST)).fetchone()
        if row == (self._digest,):
            return frozenset()
        fingerprints: dict[str, str] = dict(await (await connection.execute(FINGERPRINTS)).fetchall())
        gone = self.right.keys() - fingerprints.keys()
        for role in gone:
            del self.right[role]
        changed = {
            role
            for role, fingerprint in fingerprints.items()
            if fingerprint not in (self.right.get(role), self._told.get(role))
        }
        self._told = {role: fingerprints[role] for role in changed} | {
            role: told for role, told in self._told.items() if role in fingerprints and role not in changed
        }
        assert row is not None
        self._digest = row[0]
        return changed | gone
