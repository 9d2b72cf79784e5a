"""What a tenant's PostgREST is told (PostgREST, Configuration). Pure.

Each tenant has one of its own, which logs in as a role that can become nobody but that tenant.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field

from vaultbrix.gateway.known import ObjectKey

# Connections to PostgreSQL, each opened when it is needed.
POOL = 4
POOL_IDLE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Served:
    """What one PostgREST is run for. ``conninfo`` is libpq's connection string, which holds the login's password.

    ``server`` and ``schema`` say where a change of the schema is told; ``url`` is the address that the description of
    the API (OpenAPI) names, without a path.
    """

    tenant: ObjectKey
    server: str
    schema: str
    conninfo: str = field(repr=False)
    max_rows: int
    url: str


def socket_name(tenant: ObjectKey) -> str:
    """File name of the socket of a tenant's PostgREST: of a length that a socket's path allows, whatever the names."""
    return hashlib.sha256("/".join(tenant).encode()).hexdigest()[:32]


def configuration(served: Served, *, socket: str, secret: bytes, admin_port: int) -> str:
    """The text of its configuration file. ``secret`` signs the tokens that it accepts (HS256), and nobody else's.

    Readiness is told at ``admin_port`` of the loopback address.
    """
    values = {
        "admin-server-port": admin_port,
        # Where a tenant may set its role's settings, they must not reach this.
        "db-config": False,
        # Somebody else listens for changes, so that no connection is held for that.
        "db-channel-enabled": False,
        "db-extra-search-path": "",
        "db-max-rows": served.max_rows,
        "db-pool": POOL,
        "db-pool-max-idletime": POOL_IDLE_SECONDS,
        "db-pre-request": "vaultbrix.pre_request",
        # A tenant could put another statement in the place of one that PostgREST has prepared in the session.
        "db-prepared-statements": False,
        "db-schemas": served.schema,
        "db-uri": served.conninfo,
        "jwt-role-claim-key": ".vaultbrix.role",
        "jwt-secret": base64.b64encode(secret).decode(),
        "jwt-secret-is-base64": True,
        "log-level": "error",
        "openapi-mode": "follow-privileges",
        "openapi-server-proxy-uri": f"{served.url}/rest/v1",
        # Where readiness is told, too: all addresses unless said otherwise.
        "server-host": "127.0.0.1",
        "server-unix-socket": socket,
        # The folder decides who reaches it.
        "server-unix-socket-mode": "666",
    }
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
