"""AuditFlowing and the anchor of a server: the store is asked apart from all other work, so that one that does not
answer holds up nothing else; the server's own controller writes what was seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.postgresserver import AuditAnchor, PostgresServer, ServerAgent
from vaultbrix.audit.flow import store
from vaultbrix.audit.flow.decisions import StoreFailed, StoreSeen, audit_flowing, next_anchor
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected

LOOK_EVERY = timedelta(seconds=20)
ANCHOR_EVERY = timedelta(seconds=60)
# A store that does not answer holds up the look at one other.
WORKERS = 2


@dataclass
class _Known:
    """Of one server. ``said``: the store's word alone, as it was when the server's controller was last called."""

    seen: StoreSeen | StoreFailed
    said: State | None = None
    anchored_at: datetime | None = None


class AuditFlows:
    """What the stores of all servers were last seen to hold.

    ``changed``, set by the server's own controller, is called with the name of a server whose status may differ.
    """

    def __init__(self, registry: Registry, cache: Cache, admin: Admin) -> None:
        self._cache = cache
        self._admin = admin
        self._known: dict[str, _Known] = {}
        self._queue = registry.queue("AuditFlow", self._look, workers=WORKERS)
        self.changed: Callable[[str], None] = lambda _: None
        registry.on_change(PostgresServer, self._server_changed)

    def state(self, server: PostgresServer, alive: Sequence[ServerAgent], now: datetime) -> State | None:
        """What AuditFlowing says; None: not known yet. ``alive`` are the agents that are connected."""
        known, anchor = self._known.get(server.metadata.name), server.status.audit
        words = [agent.audit for agent in alive if agent.audit is not None]
        return audit_flowing(
            server.spec, words, known.seen if known else None, anchor, now, server.status.system_identifier
        )

    def next_anchor(self, server: PostgresServer, now: datetime) -> AuditAnchor | None:
        """The anchor to write; a new one at most once in ``ANCHOR_EVERY``."""
        known, anchor = self._known.get(server.metadata.name), server.status.audit
        if known is None:
            return anchor
        following = self._next(known, anchor, now)
        if following != anchor:
            known.anchored_at = now
        return following

    def _server_changed(self, change: Change[PostgresServer]) -> None:
        name = change.resource.metadata.name
        if change.gone:
            self._known.pop(name, None)
        elif change.decisive:
            self._queue.add(name)

    async def _look(self, name: str) -> datetime | None:
        """Ask the store of a server; returns when to ask again. Never raises Expected."""
        server, now = self._cache.servers.get("", name), datetime.now(UTC)
        if server is None:
            return None
        if server.spec.audit_secret_ref is None:
            if self._known.pop(name, None) is not None:
                self.changed(name)
            return None
        anchor = server.status.audit
        seen: StoreSeen | StoreFailed
        try:
            async with self._admin.audit_reader(server) as connection:
                seen = await store.flow(connection, name, anchor.batch if anchor else 0, now)
        except Expected as error:
            refused = error.reason is Reason.SECRET_NOT_FOR_SERVER
            seen = StoreFailed(error.message, error.reason) if refused else StoreFailed(error.message)
        known = self._known.setdefault(name, _Known(seen))
        known.seen = seen
        said = audit_flowing(server.spec, [], seen, anchor, now, server.status.system_identifier)
        differs, known.said = known.said != said, said
        if differs or self._next(known, anchor, now) != anchor:
            self.changed(name)
        return now + LOOK_EVERY

    @staticmethod
    def _next(known: _Known, anchor: AuditAnchor | None, now: datetime) -> AuditAnchor | None:
        lately = known.anchored_at is not None and known.anchored_at <= now < known.anchored_at + ANCHOR_EVERY
        if lately or not isinstance(known.seen, StoreSeen):
            return anchor
        return next_anchor(known.seen, anchor)
