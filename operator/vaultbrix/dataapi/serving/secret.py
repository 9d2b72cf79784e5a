"""The Secret by which a gateway reaches a server: its CA, and the key from which PostgREST's passwords are made."""

import base64
import binascii
import secrets
from dataclasses import dataclass, field

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.dataapi.serving.decisions import KEY_BYTES
from vaultbrix.kube.client import Kube, NotFound
from vaultbrix.kube.owned_secret import Content, OwnedSecret, Values, decoded, read_secret, write_secret
from vaultbrix.kube.secrets import SecretKey, Secrets
from vaultbrix.postgres.server_secret import FOR_SERVER
from vaultbrix.runtime.errors import Blocked

_SUFFIX = "-data-api"


@dataclass(frozen=True)
class ServerSecrets:
    """Where servers' Secrets are: ``namespace``, that of Jobs; in ``before`` earlier releases had them."""

    namespace: str
    before: str


@dataclass(frozen=True)
class ServerSecret:
    """Whose Secret it is, where, and the PEM text of the CA of the server's certificate."""

    server: PostgresServer
    places: ServerSecrets
    authority: str

    def owned(self, namespace: str) -> OwnedSecret:
        """The Secret as one of the server's in that namespace."""
        name = secret_name(self.server.metadata.name)
        remedy = f"give it another name: the data API needs this one in namespace {namespace}"
        labels = {FOR_SERVER: self.server.metadata.name}
        return OwnedSecret(self.server, name, remedy, cluster_namespace=namespace, labels=labels)


@dataclass(frozen=True)
class ServerAccess:
    """What a gateway needs to reach a server: the key, and the PEM text of the CA of the server's certificate."""

    key: bytes = field(repr=False)
    authority: str


def secret_name(server: str) -> str:
    """Name of a server's Secret."""
    return server + _SUFFIX


def server_of_secret(namespace: str, secret: SecretKey) -> str | None:
    """The server whose Secret that is, if it is one; ``namespace`` is where they are."""
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
    """Make the Secret right and return the key in it; a new one only where there is none, nor was before.

    Raises Blocked(SecretTaken) when it is somebody else's, Transient when others change it meanwhile.
    """

    owned = secret.owned(secret.places.namespace)
    # With another key than before, gateways of that release could log in nowhere until they are replaced.
    seen = await read_secret(kube, owned)
    present = _key(seen.content.values) if seen is not None else await _key_before(kube, secret)
    key = present or secrets.token_bytes(KEY_BYTES)
    values = {"key": base64.b64encode(key).decode(), "ca.crt": secret.authority}
    await write_secret(kube, owned, Content(values), seen)
    return key


async def _key_before(kube: Kube, secret: ServerSecret) -> bytes | None:
    """The key that the server had where an earlier release kept it; None where there is none that may be read."""
    try:
        seen = await read_secret(kube, secret.owned(secret.places.before))
    except Blocked:
        return None
    return _key(seen.content.values) if seen is not None else None


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
