"""What one open rule gives."""

from dataclasses import dataclass
from datetime import datetime

from vaultbrix.runtime.addresses import Address, within


@dataclass(frozen=True, slots=True)
class Grant:
    """What one open rule gives. ``deadline`` is aware and in UTC; ``cidrs`` are canonical; ``role`` logs in."""

    rule: str
    uid: str
    generation: int
    tenant: str
    role: str
    cidrs: tuple[str, ...]
    deadline: datetime
    requested_by: str
    reason: str

    def covers(self, address: Address) -> bool:
        """Whether the address may connect under this grant."""
        return within(address, self.cidrs)
