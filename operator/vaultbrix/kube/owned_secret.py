"""Secrets that the operator makes for an object of ours: one owner each, and never written over somebody else's."""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import Resource
from vaultbrix.kube.client import Conflict, Kube, NotFound, Object
from vaultbrix.kube.resources import SECRETS, resource_type
from vaultbrix.runtime.errors import Blocked, Transient

Values = Mapping[str, str]
"""What a Secret holds, in clear."""


@dataclass(frozen=True)
class OwnedSecret:
    """Whose it is, and its name. ``remedy`` is what a person can do when the name is taken.

    It is in the owner's namespace; ``cluster_namespace`` says where it is for an owner that is in none. It has
    ``labels`` besides the one that says who manages it.
    """

    owner: Resource
    name: str
    remedy: str
    cluster_namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """Where it is."""
        return self.owner.metadata.namespace or self.cluster_namespace


async def ensure_secret(
    kube: Kube, secret: OwnedSecret, values_of: Callable[[Values], Values], *, likely_new: bool = False
) -> Values:
    """Have the Secret hold what ``values_of`` says, and return that.

    ``values_of`` is given what the Secret holds now: nothing where there is none, and without what is no text.
    ``likely_new`` saves a look where there was no Secret yet when the owner was last reported on.
    Raises Blocked(SecretTaken) when the Secret is somebody else's, Transient when others change it meanwhile.
    """
    if likely_new:
        values = values_of({})
        try:
            await kube.create(SECRETS, secret.namespace, _body(secret, values))
        except Conflict:
            pass
        else:
            return values
    return await _ensure_secret(kube, secret, values_of)


async def delete_secret(kube: Kube, owner: Resource, name: str) -> None:
    """Delete the Secret; one that is gone, or somebody else's, is left as it is."""
    existing = await _existing(kube, owner.metadata.namespace, name)
    if existing is not None and _is_of(existing, owner):
        await kube.delete(SECRETS, owner.metadata.namespace, name, uid=existing["metadata"]["uid"])


async def _ensure_secret(kube: Kube, secret: OwnedSecret, values_of: Callable[[Values], Values]) -> Values:
    namespace = secret.namespace
    existing = await _existing(kube, namespace, secret.name)
    if existing is not None and not _is_of(existing, secret.owner):
        raise Blocked(
            Reason.SECRET_TAKEN,
            f"Secret {secret.name} exists and is not this {resource_type(type(secret.owner)).kind}'s; "
            f"delete it, or {secret.remedy}",
        )
    values = values_of(decoded(existing["data"]) if existing else {})
    body = _body(secret, values)
    if existing is None:
        try:
            await kube.create(SECRETS, namespace, body)
        except Conflict as error:
            raise Transient(Reason.SECRET_TAKEN, f"Secret {secret.name} appeared meanwhile") from error
    elif _lacks(existing, body, secret.labels):
        body["metadata"]["resourceVersion"] = existing["metadata"]["resourceVersion"]
        try:
            await kube.replace(SECRETS, namespace, secret.name, body)
        except (Conflict, NotFound) as error:
            raise Transient(Reason.SECRET_TAKEN, f"Secret {secret.name} changed meanwhile") from error
    return values


async def _existing(kube: Kube, namespace: str, name: str) -> Object | None:
    try:
        existing = await kube.get(SECRETS, namespace, name)
    except NotFound:
        return None
    return {**existing, "data": existing.get("data") or {}}


def _lacks(existing: Object, body: Object, labels: Mapping[str, str]) -> bool:
    """Whether the Secret lacks any of its content or labels; what somebody added beside them does not count."""
    present = existing["metadata"].get("labels") or {}
    return not (body["data"].items() <= existing["data"].items() and labels.items() <= present.items())


def _is_of(existing: Object, owner: Resource) -> bool:
    return any(o["uid"] == owner.metadata.uid for o in existing["metadata"].get("ownerReferences", []))


def decoded(data: Mapping[str, str]) -> Values:
    """A Secret's data in clear, without what is no text."""
    values = {}
    for key, encoded in data.items():
        try:
            values[key] = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            continue
    return values


def _body(secret: OwnedSecret, values: Values) -> Object:
    owner, kind = secret.owner, resource_type(type(secret.owner))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret.name,
            "namespace": secret.namespace,
            "labels": {"app.kubernetes.io/managed-by": "vaultbrix", **secret.labels},
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
