"""A grant: who may log in from where until when, as one open AccessRule gives it."""

from dataclasses import dataclass, field
from datetime import datetime

from vaultbrix.api.login_names import logins_of
from vaultbrix.runtime.addresses import Address, within


@dataclass(frozen=True, slots=True)
class Grant:
    """Lets ``role`` log in from ``cidrs`` until ``deadline``, on behalf of one open AccessRule.

    Where that is a tenant's role, its second login is let in as well. ``rule`` and ``tenant`` are namespace/name,
    ``uid`` and ``generation`` the rule's. ``deadline`` is aware and in UTC, ``cidrs`` are canonical. ``approved_by``:
    who approved exactly what it gives; empty where nobody did.
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
    approved_by: str = field(default="", kw_only=True)

    @property
    def tenant_key(self) -> tuple[str, str]:
        """(namespace, name) of the Tenant."""
        namespace, _, name = self.tenant.partition("/")
        return namespace, name

    @property
    def logins(self) -> tuple[str, ...]:
        """Who may log in under this grant."""
        return logins_of(self.role)

    def covers(self, address: Address) -> bool:
        """Whether the address may connect under this grant."""
        return within(address, self.cidrs)
