"""The kernel's layer: the set of addresses that it lets through, each until its deadline."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

from vaultbrix.agent.desired import Desired
from vaultbrix.agent.host.firewall import Firewall, timeout_for
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Expected, Transient

# Rounding, and the time between two readings of the clock.
_TOLERANCE_SECONDS = 2


class KernelLayer:
    """Brings the kernel in line with what is desired, CIDR by CIDR; what failed is tried again with the next call."""

    def __init__(self, firewall: Firewall, desired: Desired, clock: Callable[[], datetime]) -> None:
        self._firewall = firewall
        self._desired = desired
        self._clock = clock
        self._held: dict[str, datetime] = {}
        self._trusted: tuple[str, ...] | None = None
        self.dirty: set[str] = set()
        """CIDRs that are not known to be as desired."""

    async def ensure(self) -> bool:
        """Chain and sets in place, closed by default; returns whether something was amiss. Raises Transient."""
        return await asyncio.to_thread(self._firewall.ensure)

    async def trust(self, cidrs: tuple[str, ...]) -> None:
        """Let these sources reach PostgreSQL without a grant. Raises Transient."""
        if cidrs != self._trusted:
            await asyncio.to_thread(self._firewall.trust, cidrs)
            self._trusted = cidrs

    async def open(self) -> None:
        """Let in what is desired, and see that the kernel holds it. Raises Transient."""
        now = self._clock()
        wanted = {cidr: deadline for cidr in self.dirty if (deadline := self._desired.deadline(cidr)) is not None}
        changed = {cidr: deadline for cidr, deadline in wanted.items() if self._held.get(cidr) != deadline}
        if changed:
            await asyncio.to_thread(
                self._firewall.allow, {cidr: timeout_for(deadline, now) for cidr, deadline in changed.items()}
            )
            missing = await asyncio.to_thread(self._firewall.missing, changed.keys())
            self._held.update((cidr, deadline) for cidr, deadline in changed.items() if cidr not in missing)
            wanted = {cidr: deadline for cidr, deadline in wanted.items() if cidr not in missing}
            expected = [cidr for cidr in missing if changed[cidr] > self._clock()]
            if expected:
                self.dirty -= wanted.keys()
                raise Transient(Reason.KERNEL_FAILED, f"kernel: {min(expected)} is not in the set after it was added")
        self.dirty -= wanted.keys()

    async def close(self) -> None:
        """Take out what is no longer desired. Raises Transient."""
        gone = {cidr for cidr in self.dirty if self._desired.deadline(cidr) is None}
        if gone:
            await asyncio.to_thread(self._firewall.deny, gone)
            for cidr in gone:
                self._held.pop(cidr, None)
            self.dirty -= gone

    async def verify(self) -> None:
        """Read all that the kernel holds, and have what differs put right. Costs as much as there are grants."""
        now = self._clock()
        try:
            present = await asyncio.to_thread(self._firewall.allowed)
        except Expected:
            # Unknown: everything is added, or taken out, again.
            self.dirty |= {*self._held, *self._desired.cidrs()}
            self._held.clear()
            return
        self._trusted = None
        self._held = {
            cidr: deadline
            for cidr in self._desired.cidrs() & present.keys()
            if (deadline := self._desired.deadline(cidr)) is not None
            and abs(present[cidr] - timeout_for(deadline, now)) <= _TOLERANCE_SECONDS
        }
        self.dirty |= (set(present) | set(self._desired.cidrs())) - self._held.keys()

    async def refused(self) -> list[str]:
        """Addresses that were refused lately; none while that cannot be told."""
        try:
            return await asyncio.to_thread(self._firewall.refused)
        except Expected:
            return []

    def touch(self, cidrs: Iterable[str]) -> None:
        """Have these looked at with the next call."""
        self.dirty.update(cidrs)
