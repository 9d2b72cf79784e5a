"""Secrets that the operator makes for an object of ours: one owner each, and never written over somebody else's."""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import Resource
from vaultbrix.kube.client import Conflict, Kube, NotFound, Object
from vaultbrix.kube.resources import SECRETS, resource_type
from vaultbrix.kube.rights import lacks_right
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


@dataclass(frozen=True)
class Content:
    """What a Secret holds in clear, without what is no text, and its annotations."""

    values: Values
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SeenSecret:
    """A Secret as the API server has it: its ``content``, when it was made, and the ``written`` object."""

    content: Content
    created: datetime
    written: Object


async def read_secret(kube: Kube, secret: OwnedSecret) -> SeenSecret | None:
    """The Secret as it is, None where there is none. Raises Blocked(SecretTaken) when it is somebody else's."""
    with _rights(secret):
        existing = await _existing(kube, secret.namespace, secret.name)
    if existing is None:
        return None
    if not _is_of(existing, secret.owner):
        raise Blocked(
            Reason.SECRET_TAKEN,
            f"Secret {secret.name} exists and is not this {resource_type(type(secret.owner)).kind}'s; "
            f"delete it, or {secret.remedy}",
        )
    return _seen(existing)


async def write_secret(kube: Kube, secret: OwnedSecret, content: Content, seen: SeenSecret | None) -> SeenSecret:
    """Have the Secret that was ``seen`` hold the content. Raises Transient when it is another one meanwhile."""
    body = _body(secret, content)
    if seen is None:
        try:
            return await _create(kube, secret, body)
        except Conflict as error:
            raise Transient(Reason.SECRET_TAKEN, f"Secret {secret.name} appeared meanwhile") from error
    if not _lacks(seen.written, body):
        return seen
    before, meta = seen.written["metadata"], body["metadata"]
    # What others have noted on it is theirs.
    meta["labels"] = {**(before.get("labels") or {}), **meta["labels"]}
    meta["annotations"] = {**(before.get("annotations") or {}), **meta["annotations"]}
    meta["resourceVersion"] = before["resourceVersion"]
    try:
        with _rights(secret):
            return _seen(await kube.replace(SECRETS, secret.namespace, secret.name, body))
    except (Conflict, NotFound) as error:
        raise Transient(Reason.SECRET_TAKEN, f"Secret {secret.name} changed meanwhile") from error


async def create_secret(kube: Kube, secret: OwnedSecret, content: Content) -> SeenSecret | None:
    """Make the Secret; None, changing nothing, where there is one of that name."""
    try:
        return await _create(kube, secret, _body(secret, content))
    except Conflict:
        return None


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
        if await create_secret(kube, secret, Content(values)) is not None:
            return values
    seen = await read_secret(kube, secret)
    values = values_of(seen.content.values if seen else {})
    await write_secret(kube, secret, Content(values), seen)
    return values


async def delete_secret(kube: Kube, owner: Resource, name: str) -> None:
    """Delete the Secret; one that is gone, or somebody else's, is left as it is."""
    existing = await _existing(kube, owner.metadata.namespace, name)
    if existing is not None and _is_of(existing, owner):
        await kube.delete(SECRETS, owner.metadata.namespace, name, uid=existing["metadata"]["uid"])


async def _create(kube: Kube, secret: OwnedSecret, body: Object) -> SeenSecret:
    try:
        with _rights(secret):
            return _seen(await kube.create(SECRETS, secret.namespace, body))
    except NotFound:
        message = f"namespace {secret.namespace}, where Secret {secret.name} belongs, does not exist"
        raise Blocked(Reason.NAMESPACE_NOT_FOUND, message) from None


@contextmanager
def _rights(secret: OwnedSecret) -> Iterator[None]:
    """Say which value of the chart gives the right to write the Secret, where the operator lacks it."""
    try:
        yield
    except Blocked as error:
        if not lacks_right(error):
            raise
        given = "jobs.namespace" if secret.cluster_namespace else "rbac.tenantNamespaces"
        raise Blocked(
            error.reason,
            f"the operator may not write Secret {secret.name} in namespace {secret.namespace}: {given} of the chart "
            f"gives that right, and should name {secret.namespace} ({error.message})",
        ) from None


def _seen(secret: Object) -> SeenSecret:
    meta = secret["metadata"]
    content = Content(decoded(secret.get("data") or {}), meta.get("annotations") or {})
    return SeenSecret(content, datetime.fromisoformat(meta["creationTimestamp"]), secret)


async def _existing(kube: Kube, namespace: str, name: str) -> Object | None:
    try:
        existing = await kube.get(SECRETS, namespace, name)
    except NotFound:
        return None
    return {**existing, "data": existing.get("data") or {}}


def _lacks(existing: Object, body: Object) -> bool:
    """Whether the Secret lacks any of its content; what somebody added beside it does not count."""
    meta = existing["metadata"]
    parts = [(body["data"], existing["data"])] + [
        (body["metadata"].get(name) or {}, meta.get(name) or {}) for name in ("labels", "annotations")
    ]
    return not all(wanted.items() <= present.items() for wanted, present in parts)


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


def _body(secret: OwnedSecret, content: Content) -> Object:
    owner, kind = secret.owner, resource_type(type(secret.owner))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret.name,
            "namespace": secret.namespace,
            "labels": {"app.kubernetes.io/managed-by": "vaultbrix", **secret.labels},
            "annotations": dict(content.annotations),
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
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in content.values.items()},
    }
