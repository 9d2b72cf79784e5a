"""Looks at the admission policies of the release, for a process that goes by decisions."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
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
    installed_policies,
    objection,
    standing_after,
    version_of,
)
from vaultbrix.admission.memory import StandingFile
from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.meta import ObjectMeta, Resource
from vaultbrix.kube.client import Kube, NotFound, Object
from vaultbrix.kube.resources import ADMISSION_BINDINGS, ADMISSION_POLICIES, CONFIG_MAPS, ResourceType
from vaultbrix.runtime.errors import Expected


@dataclass(frozen=True)
class PolicyList:
    """The ConfigMap in which the chart names its admission policies, each with the hash of its spec."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "PolicyList":
        """Read NAMESPACE/NAME. Raises ValueError."""
        namespace, separator, name = text.partition("/")
        if not namespace or not separator or not name or "/" in name:
            raise ValueError(f"expected NAMESPACE/NAME, not {text}")
        return cls(namespace, name)

    def __str__(self) -> str:
        """Return NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"


class Policies:
    """How the policies stand. ``names`` is None where the release has none: then every decision counts.

    With a ``memory`` it is known after a restart since when they are in force.
    """

    def __init__(self, kube: Kube, names: PolicyList | None, memory: StandingFile | None = None) -> None:
        self._kube = kube
        self._names = names
        self._memory = memory
        before = memory.load() if memory is not None else None
        self._standing = NOT_INSTALLED if names is None else before or Standing()
        self._told = self.state()
        self._listeners: list[Callable[[State], None]] = []
        self._looking = asyncio.Lock()

    @property
    def installed(self) -> bool:
        """Whether the release has policies."""
        return self._names is not None

    @property
    def in_force_since(self) -> datetime | None:
        """Since when they are in force as they are; None while they are not, as far as is known."""
        standing = self._standing
        return standing.since if standing.in_force(self._kube.server_now()) else None

    def on_change(self, listener: Callable[[State], None]) -> None:
        """Have a listener called with the state before when it is another."""
        self._listeners.append(listener)

    def state(self) -> State:
        """What condition AdmissionEnforced says."""
        return admission_enforced(self._standing, self._kube.server_now())

    async def objection(self, kind: str, written_after: datetime) -> Objection | None:
        """Why a decision does not count that was written after that time, as far as is known; None where it does.

        Call it with a decision that was read before: had the policies changed until it was written, a look shows it.
        """
        await self.look()
        return self.known_objection(kind, written_after)

    def known_objection(self, kind: str, written_after: datetime) -> Objection | None:
        """The same by the last look, for a decision that was read before that one."""
        return objection(self._standing, kind, written_after, self._kube.server_now())

    async def look(self) -> None:
        """Read policies and bindings, and tell what is new."""
        if self._names is None:
            return
        async with self._looking:
            standing = standing_after(self._standing, await self._read(self._names))
            if self._memory is not None:
                self._memory.keep(standing)
            self._standing = standing
            before, self._told = self._told, self.state()
        if self._told != before:
            for listener in self._listeners:
                listener(before)

    async def _read(self, names: PolicyList) -> Look:
        at = self._kube.server_now()
        try:
            found = await self._kube.get(CONFIG_MAPS, names.namespace, names.name)
            installed = installed_policies(found.get("data") or {})
            pairs = await asyncio.gather(*(self._find_pair(policy) for policy in installed))
        except NotFound:
            text = f"ConfigMap {names}, which names the admission policies, is not there"
            return Look(at, fault=(Reason.POLICIES_MISSING, text))
        except ValueError as error:
            return Look(at, fault=(Reason.POLICIES_CHANGED, f"ConfigMap {names}: {error}"))
        except Expected as error:
            return Look(at, fault=(error.reason, error.message), unreadable=True)
        versions: list[Version] = []
        for policy, pair in zip(installed, pairs, strict=True):
            fault = fault_of(policy, *(one and one["spec"] for one in pair))
            if fault is not None:
                return Look(at, fault=fault)
            versions += [version_of(_metadata(one)) for one in pair if one is not None]
        # None of them changed while the others were read, unless the next look finds another version.
        return Look(self._kube.server_now(), tuple(versions))

    async def _find_pair(self, policy: InstalledPolicy) -> list[Object | None]:
        return [await self._find(kind, policy.name) for kind in (ADMISSION_POLICIES, ADMISSION_BINDINGS)]

    async def _find(self, kind: ResourceType, name: str) -> Object | None:
        try:
            return await self._kube.get(kind, "", name)
        except NotFound:
            return None


def _metadata(known: dict[str, Any]) -> ObjectMeta:
    return Resource.parse(known).metadata
