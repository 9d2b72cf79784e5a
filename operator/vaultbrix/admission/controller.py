"""Looks at the admission policies of the release every 20 s, and tells who has to know when that has changed."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from vaultbrix.admission.decisions import (
    NOT_INSTALLED,
    InstalledPolicy,
    Look,
    Objection,
    Standing,
    Version,
    admission_enforced,
    fault_of,
    objection,
    standing_after,
    version_of,
)
from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.meta import ObjectMeta, Resource
from vaultbrix.kube import events
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube, NotFound, Object
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.resources import ADMISSION_BINDINGS, ADMISSION_POLICIES, ResourceType
from vaultbrix.runtime.errors import Expected

LOOK_EVERY = timedelta(seconds=20)


class Policies:
    """How the policies stand; ``on_change`` is called once that is another."""

    def __init__(self, registry: Registry, kube: Kube, cache: Cache, installed: Sequence[InstalledPolicy]) -> None:
        self._kube = kube
        self._cache = cache
        self._installed = installed
        self._standing = Standing() if installed else NOT_INSTALLED
        self._told = self.state()
        self._listeners: list[Callable[[], None]] = []
        self._looking = asyncio.Lock()
        self._warned = False
        if installed:
            registry.on_resync(self.look)
            registry.every(LOOK_EVERY, self.look)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have a listener called when the state is another."""
        self._listeners.append(listener)

    def state(self) -> State:
        """What condition AdmissionEnforced says."""
        return admission_enforced(self._standing, self._kube.server_now())

    async def objection(self, written_after: datetime) -> Objection | None:
        """Why a decision does not count that was written after that time, as far as is known; None where it does.

        Call it with a decision that was read before: had the policies changed until it was written, a look shows it.
        """
        if self._installed:
            await self.look()
        return objection(self._standing, written_after, self._kube.server_now())

    async def look(self) -> None:
        """Read policies and bindings, and tell what is new."""
        async with self._looking:
            seen = await self._read()
            self._standing = standing_after(self._standing, seen)
            before, self._told = self._told, self.state()
        if self._told == before:
            return
        for listener in self._listeners:
            listener()
        await self._tell(before)

    async def _tell(self, before: State) -> None:
        state = self._told
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

    async def _read(self) -> Look:
        at = self._kube.server_now()
        versions: list[Version] = []
        try:
            for installed in self._installed:
                found = [await self._find(kind, installed.name) for kind in (ADMISSION_POLICIES, ADMISSION_BINDINGS)]
                fault = fault_of(installed, *(one and one["spec"] for one in found))
                if fault is not None:
                    return Look(at, fault=fault)
                versions += [version_of(_metadata(one)) for one in found if one is not None]
        except Expected as error:
            return Look(at, fault=(error.reason, error.message), unreadable=True)
        # None of them changed while the others were read, unless the next look finds another version.
        return Look(self._kube.server_now(), tuple(versions))

    async def _find(self, kind: ResourceType, name: str) -> Object | None:
        try:
            return await self._kube.get(kind, "", name)
        except NotFound:
            return None


def _metadata(known: dict[str, Any]) -> ObjectMeta:
    return Resource.parse(known).metadata


class Guard:
    """Which decisions on objects of one kind count.

    That a decision was checked is known where its object was created, or was last seen undecided, after the policies
    were in force as they are. What an object says itself of when it was decided can be written by who edits it.
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._undecided: dict[str, datetime] = {}
        self._taken: set[str] = set()

    def saw_undecided(self, known: Resource, at: datetime) -> None:
        """Note that the object, read after that time, was without a decision."""
        self._undecided[known.metadata.uid] = at

    def take(self, known: Resource) -> None:
        """Note that its decision is taken over: that stays."""
        self._taken.add(known.metadata.uid)

    def forget(self, known: Resource) -> None:
        """Forget an object that is at its end."""
        self._undecided.pop(known.metadata.uid, None)
        self._taken.discard(known.metadata.uid)

    async def objection(self, known: Resource) -> Objection | None:
        """Why its decision does not count; None where it does, or is taken over already."""
        meta = known.metadata
        if meta.uid in self._taken:
            return None
        seen = self._undecided.get(meta.uid, meta.creation_timestamp)
        return await self._policies.objection(max(seen, meta.creation_timestamp))
