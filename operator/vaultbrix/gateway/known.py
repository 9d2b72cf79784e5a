"""What the authorizer knows of keys and tenants: all that a decision rests on besides the request. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from vaultbrix.api.apikey import KeyKind
from vaultbrix.gateway.jwt import Users

ObjectKey = tuple[str, str]
"""(namespace, name) of an object."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One text of an APIKey, known by its hash alone.

    ``ends_at`` is the first of the object's own end and the end of the overlap after a rotation; ``closed`` says that
    the key is good no more, or not yet, whatever the time.
    """

    name: ObjectKey
    tenant: ObjectKey
    kind: KeyKind
    sha256: str = ""
    ends_at: datetime | None = None
    closed: bool = False
    allowed_cidrs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KnownTenant:
    """A Tenant whose data API may be asked for.

    ``served`` says that its owner wants it and that its role may be used. ``backend`` names the socket of its
    PostgREST. ``users`` is None where the tenant has no users of its own.
    """

    name: ObjectKey
    slug: str
    served: bool = True
    backend: str = ""
    users: Users | None = None

    @property
    def role(self) -> str:
        """Name of the tenant's own role and of its schema."""
        return f"tenant_{self.slug}"


class Known(Protocol):
    """Where a decision looks things up."""

    def key(self, sha256: str) -> KnownKey | None:
        """The key whose text has this hash (64 hexadecimal digits)."""

    def tenant(self, name: ObjectKey) -> KnownTenant | None:
        """The tenant of that name."""
