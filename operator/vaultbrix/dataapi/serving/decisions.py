"""Decides whether a Tenant's schema is served at /rest/v1, and what Tenant and PostgresServer say of that. Pure."""

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from vaultbrix.api.conditions import (
    Condition,
    ConditionType,
    Reason,
    State,
    StatusPart,
    conditions,
    find_condition,
    is_true,
)
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.runtime.errors import Blocked, Expected

MANAGER = "vaultbrix-data-api"
"""Field manager of what is said of the data API."""

KEY_BYTES = 32
"""Length of a server's key, from which the passwords of its PostgREST logins are made."""

MARK = "vaultbrix_rest"
"""The group by which pg_hba.conf knows the logins."""

LISTENER = "vaultbrix_listener"
"""The login by which gateways hear of changed schemas."""

_TYPES = frozenset({ConditionType.DATA_API_READY})


@dataclass(frozen=True)
class ApiRoles:
    """The roles of a tenant as they should be. ``owner`` is (namespace, name) of the Tenant.

    ``settings`` hold for whoever PostgREST acts as. ``login`` says whether its login is let in.
    """

    tenant_role: str
    owner: tuple[str, str]
    connection_limit: int
    settings: Mapping[str, str]
    login: bool = True

    @property
    def anon(self) -> str:
        """Whom a request without a user acts as."""
        return f"{self.tenant_role}_anon"

    @property
    def authenticated(self) -> str:
        """Whom a request of a user acts as."""
        return f"{self.tenant_role}_authenticated"

    @property
    def rest(self) -> str:
        """Whom PostgREST logs in as."""
        return rest_login(self.tenant_role)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.anon, self.authenticated, self.rest)


def rest_login(tenant_role: str) -> str:
    """Name of the login of a tenant's PostgREST."""
    return f"{MARK}_{tenant_role.removeprefix('tenant_')}"


def url_of(tenant: Tenant, server: PostgresServer | None) -> str:
    """The address that the tenant's applications are given; empty where its server has no data API.

    It names the tenant, so that a key that is used at the wrong place is refused.
    """
    if server is None or server.spec.data_api is None:
        return ""
    scheme, _, host = server.spec.data_api.url.partition("://")
    label = tenant.slug.replace("_", "-")
    # No certificate is for a name whose part ends in a hyphen.
    return server.spec.data_api.url if label.endswith("-") else f"{scheme}://{label}.{host}"


def api_roles(tenant: Tenant) -> ApiRoles:
    """The roles as the Tenant's spec asks for them."""
    data_api = tenant.spec.data_api
    return ApiRoles(
        tenant_role=tenant.role,
        owner=tenant.key,
        connection_limit=tenant.spec.connection_limit,
        settings=tenant.spec.settings.dump(),
        login=data_api is not None and data_api.enabled and not tenant.spec.suspended,
    )


def password_of(key: bytes, login: str) -> str:
    """The password of a PostgREST login, from the server's key; whoever has the key needs no other secret."""
    return base64.urlsafe_b64encode(hmac.digest(key, login.encode(), "sha256")).rstrip(b"=").decode()


def serving_server(tenant: Tenant, server: PostgresServer | None) -> PostgresServer:
    """The server, once it can serve the Tenant. Raises Blocked until then."""
    # Provisioned is for the owner of the slug alone: a second Tenant of that slug has no schema to serve.
    if server is None or not is_true(tenant.status.conditions, ConditionType.PROVISIONED):
        raise Blocked(Reason.TENANT_NOT_READY, f"Tenant {tenant.display} is not provisioned; see its conditions")
    if server.spec.data_api is None:
        raise Blocked(
            Reason.NO_DATA_API,
            f"PostgresServer {server.metadata.name} has no data API; an admin sets its spec.dataAPI.url",
        )
    if not is_true(server.status.conditions, ConditionType.DATA_API_READY):
        raise Blocked(
            Reason.SERVER_NOT_READY,
            f"the data API of PostgresServer {server.metadata.name} is not ready; see its conditions",
        )
    return server


def served_before(resource: Tenant | PostgresServer) -> bool:
    """Whether all was as this spec asks for once, so that a difference is somebody else's doing."""
    ready = find_condition(resource.status.conditions, ConditionType.DATA_API_READY)
    return ready is not None and ready.status == "True" and ready.observed_generation == resource.metadata.generation


def tenant_part(tenant: Tenant, url: str, failure: Expected | None, now: datetime) -> StatusPart:
    """What the Tenant says of its data API after an attempt to have it served at ``url``; nothing without one."""
    if tenant.spec.data_api is None:
        return _part(tenant, None, {"dataAPI": None}, now)
    if _stands(tenant, failure):
        return _as_it_is(tenant, {"dataAPI": tenant.status.dump().get("dataAPI")})
    served = failure is None and tenant.spec.data_api.enabled and not tenant.spec.suspended
    if failure is not None:
        state = State(False, failure.reason, failure.message)
    elif tenant.spec.suspended:
        state = State(False, Reason.TENANT_SUSPENDED, "spec.suspended is true: nobody gets in")
    elif not served:
        state = State(False, Reason.DISABLED, "spec.dataAPI.enabled is false: nobody gets in")
    else:
        state = State(True, Reason.SERVED, f"served at {url}/rest/v1 to holders of an APIKey")
    return _part(tenant, state, {"dataAPI": {"url": url} if served else None}, now)


def server_part(server: PostgresServer, failure: Expected | None, now: datetime) -> StatusPart:
    """What the server says of its data API; nothing where it has none."""
    if server.spec.data_api is not None and _stands(server, failure):
        return _as_it_is(server, {})
    if failure is not None:
        # As it was: whoever is to be locked out is so only once that was done.
        state = State(server.spec.data_api is None, failure.reason, failure.message)
    elif server.spec.data_api is None:
        return _part(server, None, {}, now)
    else:
        state = State(True, Reason.INSTALLED, f"Tenants with spec.dataAPI are served at {server.spec.data_api.url}")
    return _part(server, state, {}, now)


def _stands(resource: Tenant | PostgresServer, failure: Expected | None) -> bool:
    """Whether what the object says holds on: who is served must not depend on what the operator reaches right now."""
    return failure is not None and failure.reason is Reason.UNREACHABLE and served_before(resource)


def _as_it_is(resource: Tenant | PostgresServer, fields: Mapping[str, object]) -> StatusPart:
    written = [condition for condition in resource.status.conditions if condition.type in _TYPES]
    return StatusPart(MANAGER, _TYPES, written, fields)


def _part(
    resource: Tenant | PostgresServer, state: State | None, fields: Mapping[str, object], now: datetime
) -> StatusPart:
    written: list[Condition] = []
    if state is not None:
        written = conditions(
            {ConditionType.DATA_API_READY: state},
            resource.status.conditions,
            generation=resource.metadata.generation,
            now=now,
        )
    return StatusPart(MANAGER, _TYPES, written, fields)
