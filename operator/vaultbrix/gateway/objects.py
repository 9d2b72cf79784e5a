"""From objects of the API to what the authorizer knows. Pure."""

from vaultbrix.api.apikey import APIKey, KeyPhase
from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.decisions import deadline_of
from vaultbrix.gateway.jwt import TokenKey, Users
from vaultbrix.gateway.known import KnownKey, KnownTenant
from vaultbrix.gateway.postgrest import socket_name


def is_served(tenant: Tenant) -> bool:
    """Whether the tenant's owner wants its data API, and its roles are made and may be used."""
    # DataAPIReady is for the owner of the slug alone: a second Tenant of that slug leads nowhere.
    data_api, ready = tenant.spec.data_api, is_true(tenant.status.conditions, ConditionType.DATA_API_READY)
    return ready and not (tenant.deleting or tenant.spec.suspended) and data_api is not None and data_api.enabled


def known_key(api_key: APIKey, sha256: str) -> KnownKey | None:
    """The key of that hash as ``dataapi.decisions.is_good`` decides on it, or None where the object has none such.

    The one that was replaced last is known as one that is good no more, so that who still uses it is on record.
    """
    spec, status = api_key.spec, api_key.status
    entry = next((one for one in status.keys if one.sha256 == sha256), None)
    replaced = status.receipt is not None and status.receipt.sha256 == sha256
    if entry is None and not replaced:
        return None
    ends = (entry.expires_at if entry is not None else None, status.expires_at, deadline_of(api_key))
    return KnownKey(
        name=api_key.key,
        tenant=api_key.tenant_key,
        kind=spec.kind,
        sha256=sha256,
        ends_at=min((end for end in ends if end is not None), default=None),
        closed=entry is None or spec.revoked or api_key.deleting or status.phase is not KeyPhase.ACTIVE,
        allowed_cidrs=tuple(spec.allowed_cidrs),
    )


def known_tenant(tenant: Tenant, keys: tuple[TokenKey, ...]) -> KnownTenant:
    """The tenant with the keys of its users, as far as they were read."""
    data_api = tenant.spec.data_api
    tokens = data_api.jwt if data_api is not None else None
    users = (
        Users(keys, tokens.issuer, tokens.audience, tokens.role_claim, tokens.jwks_url or "")
        if tokens is not None
        else None
    )
    return KnownTenant(
        name=tenant.key,
        slug=tenant.slug,
        served=is_served(tenant),
        backend=socket_name(tenant.key),
        users=users,
    )
