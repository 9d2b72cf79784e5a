"""Decides whether a Tenant may have a place on its server, and whether a role that is there is its own. Pure.

A name does not say whose a role is: whoever makes a namespace anew has the name. The uid of the Tenant object does.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from vaultbrix.api.conditions import ConditionType, Reason, is_true
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.namespace import Namespace
from vaultbrix.api.placement import From
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.runtime.counted import counted
from vaultbrix.runtime.errors import Blocked, Expected, Transient

GATE_WITH_UIDS = 9
"""The gate's migration that notes whose a role is by uid."""


class Owner(NamedTuple):
    """A Tenant object that a role may belong to, and when the API server made it."""

    namespace: str
    name: str
    uid: str
    created: datetime

    @property
    def display(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Claim:
    """Whose a role is, as noted in the database.

    While the object is not ``bound``, it is one of that namespace and name that was made before ``noted_at``, and
    ``uid`` only stands for it. ``since`` is when the role was made for a Tenant, ``retained_at`` since when its Tenant
    is gone and the data is kept, None where that is not known.
    """

    namespace: str
    name: str
    uid: str
    bound: bool
    noted_at: datetime
    since: datetime
    retained_at: datetime | None

    @property
    def display(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def is_of(self, owner: Owner) -> bool:
        """Whether the role belongs to that object."""
        return self.uid == owner.uid if self.bound else self.is_of_older(owner)

    def is_of_older(self, owner: Owner) -> bool:
        """Whether the role was made for that object before uids were noted, and nobody's uid is noted yet."""
        same_name = (self.namespace, self.name) == (owner.namespace, owner.name)
        return not self.bound and same_name and owner.created < self.noted_at


@dataclass(frozen=True)
class Placement:
    """What holds for a Tenant that has no role on its server yet.

    ``refusal`` is what keeps its namespace out, None where it is let in. ``max_tenants`` None means any number.
    ``adopt`` is the uid of the Tenant whose data it asks for; ``agreed`` says that the server's spec lets it have that,
    and ``still_there`` names the Tenant of that uid while it is not gone.
    """

    server: str
    refusal: Expected | None
    max_tenants: int | None
    adopt: str | None = None
    agreed: bool = False
    still_there: str | None = None


class Step(Enum):
    """What makes a role the Tenant's."""

    KEEP = "it is already"
    BIND = "its uid is noted"
    CLAIM = "there is none, and one is made"
    ADOPT = "that of a Tenant that is gone becomes this one's"


def owner_of(tenant: Tenant) -> Owner:
    """The object that the Tenant's role belongs to."""
    meta = tenant.metadata
    return Owner(meta.namespace, meta.name, meta.uid, meta.creation_timestamp)


def await_gate(server: PostgresServer | None) -> None:
    """Raise Transient while a server's gate is of before uids: the operator was upgraded a moment ago."""
    if server is None or not is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
        return
    if (server.status.gate_version or 0) < GATE_WITH_UIDS:
        raise Transient(Reason.SERVER_NOT_READY, f"PostgresServer {server.metadata.name} is being upgraded")


def place(tenant: Tenant, server: PostgresServer, namespace: Namespace | None, former: Tenant | None) -> Placement:
    """What holds for the Tenant if it is new. ``former`` is the Tenant that ``spec.adopt`` names, if it is there."""
    owner = owner_of(tenant)
    agreed = any(
        (adoption.from_, adoption.to.namespace, adoption.to.name, adoption.to.uid)
        == (tenant.spec.adopt, owner.namespace, owner.name, owner.uid)
        for adoption in server.spec.adoptions
    )
    return Placement(
        server=server.metadata.name,
        refusal=_refusal(owner.namespace, server, namespace),
        max_tenants=server.spec.limits.max_tenants,
        adopt=tenant.spec.adopt,
        agreed=agreed,
        still_there=former.display if former is not None else None,
    )


def _refusal(name: str, server: PostgresServer, namespace: Namespace | None) -> Expected | None:
    allowed, at = server.spec.allowed_namespaces, f"PostgresServer {server.metadata.name}"
    if allowed is None:
        return Blocked(
            Reason.NAMESPACE_NOT_ALLOWED,
            f"{at} takes no new Tenants: an admin names namespace {name} in its spec.allowedNamespaces",
        )
    if allowed.from_ is From.ALL:
        return None
    if namespace is None:
        return Transient(Reason.WAITING, f"the labels of namespace {name} are not known yet")
    if allowed.selector is not None and allowed.selector.matches(namespace.metadata.labels):
        return None
    return Blocked(
        Reason.NAMESPACE_NOT_ALLOWED,
        f"{at} takes no new Tenants of namespace {name}, which spec.allowedNamespaces.selector does not select: an "
        "admin changes the selector, or labels the namespace",
    )


def settle(role: str, owner: Owner, claim: Claim | None, placement: Placement, *, exists: bool) -> Step:
    """How the role becomes the owner's. ``exists`` says that there is a role or schema of that name.

    Raises Expected, for a condition, when it does not.
    """
    if claim is not None and claim.is_of(owner):
        return Step.KEEP if claim.bound else Step.BIND
    if placement.refusal is not None:
        raise placement.refusal
    if claim is not None:
        return _take_over(role, owner, claim, placement)
    if exists:
        raise Blocked(
            Reason.SLUG_TAKEN, f"a role or schema {role} that is not managed here exists; choose another spec.slug"
        )
    return Step.CLAIM


def check_limit(placement: Placement, tenants: int) -> None:
    """Raise Blocked when a server that has so many tenants takes no more."""
    limit = placement.max_tenants
    if limit is not None and tenants >= limit:
        raise Blocked(
            Reason.TOO_MANY_TENANTS,
            f"PostgresServer {placement.server} has {counted(tenants, 'tenant')}, those with retained data counted, "
            f"and its spec.limits.maxTenants is {limit:,}: an admin raises it, or one is deleted with "
            "deletionPolicy Delete",
        )


def _take_over(role: str, owner: Owner, claim: Claim, placement: Placement) -> Step:
    asked = placement.adopt == claim.uid
    if asked and placement.still_there is not None:
        raise Blocked(
            Reason.SLUG_TAKEN,
            f"{role} belongs to Tenant {placement.still_there}, which is still there: it can be adopted once that is "
            "deleted with deletionPolicy Retain",
        )
    if asked and placement.agreed:
        return Step.ADOPT
    other = (claim.namespace, claim.name) != (owner.namespace, owner.name)
    if not asked and other and claim.retained_at is None:
        raise Blocked(Reason.SLUG_TAKEN, f"{role} belongs to Tenant {claim.display}; choose another spec.slug")
    gone = f", gone since {rfc3339(claim.retained_at)}" if claim.retained_at else ""
    kept = (
        f"role, schema and data of an earlier Tenant {claim.display} (uid {claim.uid}, here since "
        f"{rfc3339(claim.since)}{gone}) are kept as {role}, and are not this one's"
    )
    ask = "" if asked else f"set spec.adopt to {claim.uid}, and "
    raise Blocked(
        Reason.DATA_RETAINED,
        f"{kept}. To take them over, {ask}have an admin add to spec.adoptions of PostgresServer {placement.server}: "
        f"{{from: {claim.uid}, to: {{namespace: {owner.namespace}, name: {owner.name}, uid: {owner.uid}}}}}. "
        "To begin anew, create a Tenant with another spec.slug",
    )
