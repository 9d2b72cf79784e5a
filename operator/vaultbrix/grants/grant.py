"""A grant: who may log in from where until when, as one open AccessRule gives it."""

from dataclasses import dataclass
from datetime import datetime

from vaultbrix.runtime.addresses import Address, within


@dataclass(frozen=True, slots=True)
class Grant:
    """Lets ``role`` log in from ``cidrs`` until ``deadline``, on behalf of one open AccessRule.

    ``rule`` and ``tenant`` are namespace/name, ``uid`` and ``generation`` the rule's. ``deadline`` is aware and in UTC,
    ``cidrs`` are canonical.
    """

    rule: str
    uid: str
    generation: int
    tenant: str
    role: str
    cidrs: tuple[str, ...]
    deadline: datetime
    requested_by: str
    reason: str

    @property
    def tenant_key(self) -> tuple[str, str]:
        """(namespace, name) of the Tenant."""
        namespace, _, name = self.tenant.partition("/")
        return namespace, name

    def covers(self, address: Address) -> bool:
        """Whether the address may connect under this grant."""
        return within(address, self.cidrs)
