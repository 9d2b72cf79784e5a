"""AuditFlowing and the anchor of a server: the store is asked apart from all other work, so that one that does not
answer holds up nothing else; the server's own controller writes what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from vaultbrix.api.conditions import ConditionType, Verdict
from vaultbrix.api.postgresserver import AuditAnchor, PostgresServer, ServerAgent
from vaultbrix.audit.flow import store
from vaultbrix.audit.flow.decisions import StoreFailed, StoreSeen, audit_flowing, next_anchor
from vaultbrix.kube.cache import Context
from vaultbrix.kube.status import Conditions
from vaultbrix.postgres.admin import audit_target
from vaultbrix.postgres.connect import connect
from vaultbrix.runtime.errors import Expected

LOOK_EVERY = timedelta(seconds=20)
ANCHOR_EVERY = timedelta(seconds=60)


@dataclass
class _Known:
    """Of one server. ``told``: the store's word alone, as it was when the server's controller was last called."""

    seen: StoreSeen | StoreFailed
    told: Verdict | None = None
    anchored_at: datetime | None = None


class AuditFlows:
    """What the stores of all servers were last seen to hold."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    async def look(self, context: Context, server: PostgresServer, now: datetime) -> bool:
        """Ask the store; returns whether the server's status may have to change. Never raises Expected."""
        name, anchor = server.metadata.name, server.status.audit
        if server.spec.audit_secret_ref is None:
            return self._known.pop(name, None) is not None
        seen: StoreSeen | StoreFailed
        try:
            async with connect(await audit_target(context.kube, server)) as connection:
                seen = await store.flow(connection, name, anchor.batch if anchor else 0, now)
        except Expected as error:
            seen = StoreFailed(error.message)
        known = self._known.setdefault(name, _Known(seen))
        known.seen = seen
        told = audit_flowing(server.spec, [], seen, anchor, now)
        changed, known.told = known.told != told, told
        return changed or self._next(known, anchor, now) != anchor

    def report(
        self, server: PostgresServer, alive: Sequence[ServerAgent], conditions: Conditions, now: datetime
    ) -> AuditAnchor | None:
        """Set AuditFlowing; returns the anchor to keep."""
        known, anchor = self._known.get(server.metadata.name), server.status.audit
        words = [agent.audit for agent in alive if agent.audit is not None]
        verdict = audit_flowing(server.spec, words, known.seen if known else None, anchor, now)
        if verdict is None:
            conditions.keep(ConditionType.AUDIT_FLOWING)
        else:
            conditions.set(ConditionType.AUDIT_FLOWING, *verdict)
        if known is None:
            return anchor
        wanted = self._next(known, anchor, now)
        if wanted != anchor:
            known.anchored_at = now
        return wanted

    def forget(self, name: str) -> None:
        """Of a server that is gone."""
        self._known.pop(name, None)

    @staticmethod
    def _next(known: _Known, anchor: AuditAnchor | None, now: datetime) -> AuditAnchor | None:
        lately = known.anchored_at is not None and known.anchored_at <= now < known.anchored_at + ANCHOR_EVERY
        if lately or not isinstance(known.seen, StoreSeen):
            return anchor
        return next_anchor(known.seen, anchor)
