"""Secrets with credentials: made by us, for one owner, and never written over somebody else's."""

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
    """Whose, of which name, and what it says. ``remedy`` is what to do when the name is taken."""

    owner: Resource
    name: str
    server: PostgresServer
    role: str
    schema: str
    remedy: str


async def ensure_secret(kube: Kube, wanted: CredentialsSecret) -> str:
    """Make the Secret right and return the password in it; a new one only where there is none.

    Raises Blocked(SecretTaken) when it is somebody else's.
    """
    namespace = wanted.owner.metadata.namespace
    found = await _existing(kube, wanted.owner, wanted.name)
    if found is not None and not _is_of(found, wanted.owner):
        raise Blocked(
            Reason.SECRET_TAKEN,
            f"Secret {wanted.name} exists and is not this {resource_type(type(wanted.owner)).kind}'s; "
            f"delete it, or {wanted.remedy}",
        )
    password = _password(found) if found else None
    body = _body(wanted, password or secrets.token_urlsafe(PASSWORD_BYTES))
    if found is None:
        try:
            await kube.create(SECRETS, namespace, body)
        except Conflict as error:
            raise Transient(Reason.SECRET_TAKEN, f"Secret {wanted.name} appeared meanwhile") from error
    elif {k: found["data"].get(k) for k in body["data"]} != body["data"]:
        body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        try:
            await kube.replace(SECRETS, namespace, wanted.name, body)
        except (Conflict, NotFound) as error:
            raise Transient(Reason.SECRET_TAKEN, f"Secret {wanted.name} changed meanwhile") from error
    return base64.b64decode(body["data"]["password"]).decode()


async def delete_secret(kube: Kube, owner: Resource, name: str) -> None:
    """Delete the Secret; one that is gone, or somebody else's, is left as it is."""
    found = await _existing(kube, owner, name)
    if found is not None and _is_of(found, owner):
        await kube.delete(SECRETS, owner.metadata.namespace, name, uid=found["metadata"]["uid"])


async def _existing(kube: Kube, owner: Resource, name: str) -> Object | None:
    try:
        found = await kube.get(SECRETS, owner.metadata.namespace, name)
    except NotFound:
        return None
    return {**found, "data": found.get("data") or {}}


def _is_of(secret: Object, owner: Resource) -> bool:
    return any(o["uid"] == owner.metadata.uid for o in secret["metadata"].get("ownerReferences", []))


def _password(secret: Object) -> str | None:
    try:
        password = base64.b64decode(secret["data"].get("password", ""), validate=True).decode("ascii")
        scram.verifier(password, b"\0" * scram.SALT_BYTES, 1)
    except (binascii.Error, ValueError):
        return None
    # One that somebody wrote by hand is replaced, unless it is as good as ours.
    return password if len(password) >= PASSWORD_BYTES else None


def _body(wanted: CredentialsSecret, password: str) -> Object:
    values = secret_data(
        endpoint=wanted.server.endpoint,
        database=wanted.server.spec.database,
        role=wanted.role,
        password=password,
        schema=wanted.schema,
    )
    owner, kind = wanted.owner, resource_type(type(wanted.owner))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": wanted.name,
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
