"""The Secret by which a gateway reaches a server: its CA, and the key from which PostgREST's passwords are made."""

import base64
import binascii
import secrets
from dataclasses import dataclass, field

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.dataapi.serving.decisions import KEY_BYTES
from vaultbrix.kube.client import Kube, NotFound
from vaultbrix.kube.owned_secret import OwnedSecret, Values, decoded, ensure_secret
from vaultbrix.kube.secrets import SecretKey, Secrets
from vaultbrix.postgres.server_secret import FOR_SERVER
from vaultbrix.runtime.errors import Blocked

_SUFFIX = "-data-api"


@dataclass(frozen=True)
class ServerSecret:
    """Whose Secret it is, where, and the PEM text of the CA of the server's certificate."""

    server: PostgresServer
    namespace: str
    authority: str


@dataclass(frozen=True)
class ServerAccess:
    """What a gateway needs to reach a server: the key, and the PEM text of the CA of the server's certificate."""

    key: bytes = field(repr=False)
    authority: str


def secret_name(server: str) -> str:
    """Name of a server's Secret, in the operator's namespace."""
    return server + _SUFFIX


def server_of_secret(namespace: str, secret: SecretKey) -> str | None:
    """The server whose Secret that is, if it is one; ``namespace`` is the operator's."""
    name = secret[1].removesuffix(_SUFFIX)
    return name if secret == (namespace, name + _SUFFIX) else None


def _key(values: Values) -> bytes | None:
    """The key in a Secret; None where there is none as it must be."""
    try:
        key = base64.b64decode(values.get("key", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None


async def ensure_server_secret(kube: Kube, secret: ServerSecret) -> bytes:
    """Make the Secret right and return the key in it; a new one only where there is none.

    Raises as ``kube.owned_secret.ensure_secret``.
    """

    def values_of(present: Values) -> Values:
        key = _key(present) or secrets.token_bytes(KEY_BYTES)
        return {"key": base64.b64encode(key).decode(), "ca.crt": secret.authority}

    name = secret_name(secret.server.metadata.name)
    remedy = f"give it another name: the data API needs this one in namespace {secret.namespace}"
    labels = {FOR_SERVER: secret.server.metadata.name}
    owned = OwnedSecret(secret.server, name, remedy, cluster_namespace=secret.namespace, labels=labels)
    key = _key(await ensure_secret(kube, owned, values_of))
    assert key is not None
    return key


async def read_server_secret(watched: Secrets, namespace: str, server: PostgresServer) -> ServerAccess:
    """What is in a server's Secret. Raises Blocked where there is no key as it must be."""
    name = secret_name(server.metadata.name)
    try:
        values = decoded((await watched.get(namespace, name)).get("data") or {})
    except NotFound:
        values = {}
    key = _key(values)
    if key is None:
        raise Blocked(Reason.SECRET_INVALID, f"Secret {namespace}/{name} holds no key of the data API; delete it")
    return ServerAccess(key, values.get("ca.crt", ""))
