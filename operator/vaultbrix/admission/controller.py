"""Has the operator look at the admission policies every 20 s, and tell when they go, change or are back."""

from datetime import timedelta

from vaultbrix.admission.policies import Policies
from vaultbrix.api.conditions import Reason, State
from vaultbrix.kube import events
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry

LOOK_EVERY = timedelta(seconds=20)


def register(registry: Registry, kube: Kube, cache: Cache, policies: Policies) -> None:
    """Have the policies looked at, and people told."""
    if policies.installed:
        teller = _Teller(kube, cache, policies)
        registry.on_resync(teller.look)
        registry.every(LOOK_EVERY, teller.look)


class _Teller:
    """Looks, and writes events on what any look has found since."""

    def __init__(self, kube: Kube, cache: Cache, policies: Policies) -> None:
        self._kube = kube
        self._cache = cache
        self._policies = policies
        self._untold: list[tuple[State, State]] = []
        self._warned = False
        policies.on_change(lambda before: self._untold.append((before, policies.state())))

    async def look(self) -> None:
        await self._policies.look()
        while self._untold:
            await self._tell(*self._untold.pop(0))

    async def _tell(self, before: State, state: State) -> None:
        lost = state.status is False or (before.status is True and not state.status)
        back = state.status is True and self._warned
        self._warned = lost or (self._warned and not back)
        for server in self._cache.servers if lost or back else ():
            if lost:
                # As installed again, but not all the time since the look before.
                reason = Reason.POLICIES_CHANGED if state.reason is Reason.WAITING else state.reason
                await events.warn(self._kube, server, reason, state.message, component="vaultbrix-operator")
            else:
                await events.note(self._kube, server, state.reason, state.message, component="vaultbrix-operator")
