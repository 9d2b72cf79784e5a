"""From objects of the API to what the authorizer knows. Pure.

``DataAPI`` is the part of a Tenant's spec that switches its data API on; a Tenant without it is not served.
"""

from typing import Protocol

from vaultbrix.api.apikey import APIKey, KeyPhase
from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.decisions import deadline_of
from vaultbrix.gateway.jwt import TokenKey, Users
from vaultbrix.gateway.known import KnownKey, KnownTenant


class SecretRef(Protocol):
    """One key of a Secret of the Tenant's namespace."""

    @property
    def name(self) -> str:
        """The Secret's name."""

    @property
    def key(self) -> str:
        """Which of its keys."""


class UserTokens(Protocol):
    """Whose tokens a tenant accepts: of a secret or of a URL's keys."""

    @property
    def secret_ref(self) -> SecretRef | None:
        """Where the secret for HS256 is."""

    @property
    def jwks_url(self) -> str | None:
        """Where the issuer publishes its keys."""

    @property
    def issuer(self) -> str | None:
        """What ``iss`` must be."""

    @property
    def audience(self) -> str | None:
        """What ``aud`` must hold."""

    @property
    def role_claim(self) -> str:
        """The claim that names the role."""


class DataAPI(Protocol):
    """``spec.dataAPI`` of a Tenant."""

    @property
    def enabled(self) -> bool:
        """Whether the tenant's data API is wanted."""

    @property
    def jwt(self) -> UserTokens | None:
        """None where the tenant has no users of its own."""


def data_api_of(tenant: Tenant) -> DataAPI | None:
    """``spec.dataAPI``, where the installed API has it."""
    found: DataAPI | None = getattr(tenant.spec, "data_api", None)
    return found


def known_key(api_key: APIKey, sha256: str) -> KnownKey | None:
    """The key of that hash as ``dataapi.decisions.is_good`` decides on it, or None where the object has none such."""
    entry = next((one for one in api_key.status.keys if one.sha256 == sha256), None)
    if entry is None:
        return None
    spec, status = api_key.spec, api_key.status
    ends = (entry.expires_at, status.expires_at, deadline_of(api_key))
    return KnownKey(
        name=api_key.key,
        tenant=api_key.tenant_key,
        kind=spec.kind,
        ends_at=min((end for end in ends if end is not None), default=None),
        closed=spec.revoked or api_key.deleting or status.phase is not KeyPhase.ACTIVE,
        allowed_cidrs=tuple(spec.allowed_cidrs),
    )


def known_tenant(tenant: Tenant, data_api: DataAPI | None, shard: str, keys: tuple[TokenKey, ...]) -> KnownTenant:
    """The tenant with the keys of its users, as far as they were read."""
    # Provisioned is for the owner of the slug alone: a second Tenant of that slug leads nowhere.
    usable = is_true(tenant.status.conditions, ConditionType.PROVISIONED) and not tenant.deleting
    tokens = data_api.jwt if data_api is not None else None
    users = (
        Users(keys, tokens.issuer, tokens.audience, tokens.role_claim, tokens.jwks_url or "")
        if tokens is not None
        else None
    )
    return KnownTenant(
        name=tenant.key,
        slug=tenant.slug,
        served=usable and not tenant.spec.suspended and data_api is not None and data_api.enabled,
        shard=shard,
        users=users,
    )
