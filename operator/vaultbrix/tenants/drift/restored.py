"""Says in events that a role was put right, and who had changed it as soon as the record knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube import events
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.postgres.admin import Admin
from vaultbrix.tenants.drift import store
from vaultbrix.tenants.drift.decisions import changed_by, put_back

RESTORED_EVENT = "RoleRestored"
"""Reason of the event that says what of a role somebody else had changed."""

CHANGED_BY_EVENT = "RoleChangedBy"
"""Reason of the event that says who it was, as far as the record knows."""

ASK_EVERY = timedelta(seconds=3)

# An audit store that does not answer holds up the question to one other.
WORKERS = 2

_COMPONENT = "vaultbrix-operator"


@dataclass(frozen=True)
class _Restored:
    """A role that was put right at a time; somebody changed it after ``since``. ``about`` is whose role it is."""

    about: Resource
    since: datetime
    at: datetime


class Restored:
    """Tells of roles that were put right. The record is asked apart from all other work, until it has had its time."""

    def __init__(self, registry: Registry, kube: Kube, cache: Cache, admin: Admin) -> None:
        self._kube = kube
        self._cache = cache
        self._admin = admin
        self._unexplained: dict[tuple[str, str], _Restored] = {}
        self._queue = registry.queue("RoleChangedBy", self._ask, workers=WORKERS)

    async def tell(
        self, about: Resource, server: PostgresServer, role: str, changed: Sequence[str], since: datetime
    ) -> None:
        """Say what of the role somebody changed after ``since``, and have it said who; never raises Expected."""
        await events.warn(self._kube, about, RESTORED_EVENT, put_back(role, changed), component=_COMPONENT)
        if server.spec.audit_secret_ref is None:
            return
        key, now = (server.metadata.name, role), datetime.now(UTC)
        earlier = self._unexplained.get(key)
        self._unexplained[key] = _Restored(about, min(since, earlier.since) if earlier else since, now)
        self._queue.add_at(key, now + ASK_EVERY)

    async def _ask(self, key: tuple[str, str]) -> datetime | None:
        """Ask the record who it was; returns when to ask again. Raises Expected."""
        (server_name, role), restored = key, self._unexplained.get(key)
        server = self._cache.servers.get("", server_name)
        if restored is None or server is None or server.spec.audit_secret_ref is None:
            self._unexplained.pop(key, None)
            return None
        login = (await self._admin.target(server)).user
        async with self._admin.audit_reader(server) as connection:
            changes = await store.role_changes(connection, server_name, role, login, restored.since, restored.at)
        now = datetime.now(UTC)
        message = changed_by(role, changes, restored.since, restored.at, now)
        if self._unexplained.get(key) != restored or message is None:
            return now + ASK_EVERY
        del self._unexplained[key]
        await events.warn(self._kube, restored.about, CHANGED_BY_EVENT, message, component=_COMPONENT)
        return None
