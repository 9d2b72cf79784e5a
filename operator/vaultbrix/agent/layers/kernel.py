"""The kernel's layer: keeps the addresses that the firewall lets through in line with open grants."""

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
    """Opens and closes CIDRs in the firewall; a CIDR that failed is tried again with the next call.

    Remembers what the kernel has, so that a call costs what changed since.
    """

    def __init__(self, firewall: Firewall, desired: Desired, clock: Callable[[], datetime]) -> None:
        self._firewall = firewall
        self._desired = desired
        self._clock = clock
        # CIDR → deadline that the kernel is known to keep for it.
        self._in_kernel: dict[str, datetime] = {}
        self._trusted: tuple[str, ...] | None = None
        self.dirty: set[str] = set()
        """CIDRs of which it is not known whether the kernel has them as desired."""

    async def ensure(self) -> bool:
        """Create what the firewall lacks, closed by default; returns whether something was amiss. Raises Transient."""
        return await asyncio.to_thread(self._firewall.ensure)

    async def trust(self, cidrs: tuple[str, ...]) -> None:
        """Let these sources reach PostgreSQL without a grant. Raises Transient."""
        if cidrs != self._trusted:
            await asyncio.to_thread(self._firewall.trust, cidrs)
            self._trusted = cidrs

    async def open(self) -> None:
        """Let desired CIDRs in, and check that the kernel has them then. Raises Transient if one is missing."""
        now = self._clock()
        desired = {cidr: deadline for cidr in self.dirty if (deadline := self._desired.deadline(cidr)) is not None}
        changed = {cidr: deadline for cidr, deadline in desired.items() if self._in_kernel.get(cidr) != deadline}
        if changed:
            await asyncio.to_thread(
                self._firewall.allow, {cidr: timeout_for(deadline, now) for cidr, deadline in changed.items()}
            )
            missing = await asyncio.to_thread(self._firewall.missing, changed.keys())
            self._in_kernel.update((cidr, deadline) for cidr, deadline in changed.items() if cidr not in missing)
            desired = {cidr: deadline for cidr, deadline in desired.items() if cidr not in missing}
            still_due = [cidr for cidr in missing if changed[cidr] > self._clock()]
            if still_due:
                self.dirty -= desired.keys()
                raise Transient(Reason.KERNEL_FAILED, f"kernel: {min(still_due)} is not in the set after it was added")
        self.dirty -= desired.keys()

    async def close(self) -> None:
        """Close CIDRs that are no longer desired. Raises Transient."""
        gone = {cidr for cidr in self.dirty if self._desired.deadline(cidr) is None}
        if gone:
            await asyncio.to_thread(self._firewall.deny, gone)
            for cidr in gone:
                self._in_kernel.pop(cidr, None)
            self.dirty -= gone

    async def verify(self) -> set[str]:
        """Read all that the kernel lets through and mark what differs as dirty. Takes as long as there are grants.

        Returns the CIDRs that no grant accounts for, which the next ``close`` takes away.
        """
        now = self._clock()
        # Of what is opened or closed meanwhile nobody knows whether it was read before or after.
        accounted = self.dirty | set(self._desired.cidrs())
        try:
            present = await asyncio.to_thread(self._firewall.allowed)
        except Expected:
            # Nothing is known: every CIDR is added, or removed, again.
            self.dirty |= {*self._in_kernel, *self._desired.cidrs()}
            self._in_kernel.clear()
            return set()
        self._trusted = None
        self._in_kernel = {
            cidr: deadline
            for cidr in self._desired.cidrs() & present.keys()
            if (deadline := self._desired.deadline(cidr)) is not None
            and abs(present[cidr] - timeout_for(deadline, now)) <= _TOLERANCE_SECONDS
        }
        self.dirty |= (set(present) | set(self._desired.cidrs())) - self._in_kernel.keys()
        return set(present) - accounted - set(self._desired.cidrs())

    async def refused(self) -> list[str]:
        """Return addresses that were refused in the last hour; none while the kernel cannot be read."""
        try:
            return await asyncio.to_thread(self._firewall.refused)
        except Expected:
            return []

    def touch(self, cidrs: Iterable[str]) -> None:
        """Have these CIDRs compared with the kernel by the next ``open`` and ``close``."""
        self.dirty.update(cidrs)
