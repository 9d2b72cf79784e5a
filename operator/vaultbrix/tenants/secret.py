"""Makes and deletes Secrets with credentials, each for one owner; never writes over somebody else's."""

import base64
import binascii
import secrets
from dataclasses import dataclass

from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.client import SECRETS, Conflict, Kube, NotFound, Object, resource_type
from vaultbrix.postgres import scram
from vaultbrix.postgres.scram import PASSWORD_BYTES
from vaultbrix.runtime.errors import Blocked, Transient
from vaultbrix.tenants.credentials import secret_data


@dataclass(frozen=True)
class CredentialsSecret:
    """A Secret as it should be: its owner, name and content. ``remedy`` is what to do when the name is taken."""

    owner: Resource
    name: str
    server: PostgresServer
    role: str
    schema: str
    remedy: str


async def ensure_secret(kube: Kube, credentials: CredentialsSecret, *, likely_new: bool = False) -> str:
    """Make the Secret right and return the password in it; a new one only where there is none.

    ``likely_new`` saves a look where there was no Secret yet when the owner was last reported on.
    Raises Blocked(SecretTaken) when it is somebody else's.
    """
    if likely_new:
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        try:
            await kube.create(SECRETS, credentials.owner.metadata.namespace, _body(credentials, password))
        except Conflict:
            pass
        else:
            return password
    return await _ensure_secret(kube, credentials)


async def _ensure_secret(kube: Kube, credentials: CredentialsSecret) -> str:
    namespace = credentials.owner.metadata.namespace
    secret = await _existing(kube, credentials.owner, credentials.name)
    if secret is not None and not _is_of(secret, credentials.owner):
        raise Blocked(
            Reason.SECRET_TAKEN,
            f"Secret {credentials.name} exists and is not this {resource_type(type(credentials.owner)).kind}'s; "
            f"delete it, or {credentials.remedy}",
        )
    kept_password = _password(secret) if secret else None
    body = _body(credentials, kept_password or secrets.token_urlsafe(PASSWORD_BYTES))
    if secret is None:
        try:
            await kube.create(SECRETS, namespace, body)
        except Conflict as error:
            raise Transient(Reason.SECRET_TAKEN, f"Secret {credentials.name} appeared meanwhile") from error
    elif {k: secret["data"].get(k) for k in body["data"]} != body["data"]:
        body["metadata"]["resourceVersion"] = secret["metadata"]["resourceVersion"]
        try:
            await kube.replace(SECRETS, namespace, credentials.name, body)
        except (Conflict, NotFound) as error:
            raise Transient(Reason.SECRET_TAKEN, f"Secret {credentials.name} changed meanwhile") from error
    return base64.b64decode(body["data"]["password"]).decode()


async def delete_secret(kube: Kube, owner: Resource, name: str) -> None:
    """Delete the Secret; one that is gone, or somebody else's, is left as it is."""
    secret = await _existing(kube, owner, name)
    if secret is not None and _is_of(secret, owner):
        await kube.delete(SECRETS, owner.metadata.namespace, name, uid=secret["metadata"]["uid"])


async def _existing(kube: Kube, owner: Resource, name: str) -> Object | None:
    try:
        secret = await kube.get(SECRETS, owner.metadata.namespace, name)
    except NotFound:
        return None
    return {**secret, "data": secret.get("data") or {}}


def _is_of(secret: Object, owner: Resource) -> bool:
    return any(o["uid"] == owner.metadata.uid for o in secret["metadata"].get("ownerReferences", []))


def _password(secret: Object) -> str | None:
    try:
        password = base64.b64decode(secret["data"].get("password", ""), validate=True).decode("ascii")
        scram.verifier(password, b"\0" * scram.SALT_BYTES, 1)
    except (binascii.Error, ValueError):
        return None
    # A shorter password, which somebody wrote by hand, is replaced.
    return password if len(password) >= PASSWORD_BYTES else None


def _body(credentials: CredentialsSecret, password: str) -> Object:
    values = secret_data(
        endpoint=credentials.server.endpoint,
        database=credentials.server.spec.database,
        role=credentials.role,
        password=password,
        schema=credentials.schema,
    )
    owner, kind = credentials.owner, resource_type(type(credentials.owner))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": credentials.name,
            "namespace": owner.metadata.namespace,
            "labels": {"app.kubernetes.io/managed-by": "vaultbrix"},
            "ownerReferences": [
                {
                    "apiVersion": kind.api_version,
                    "kind": kind.kind,
                    "name": owner.metadata.name,
                    "uid": owner.metadata.uid,
                    "controller": True,
                }
            ],
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }
