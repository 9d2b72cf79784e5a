"""Writes status and finalizers only when they differ, so that a controller at rest writes nothing."""

import contextlib
from typing import Any

from vaultbrix.api.conditions import ConditionType, Reason, StatusPart
from vaultbrix.api.meta import ApiModel, Resource
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Conflict, Kube, NotFound
from vaultbrix.kube.resources import resource_type
from vaultbrix.kube.store import R
from vaultbrix.runtime.errors import Transient

_SHARED = ("conditions", "agents")
# What is written into a status apart: by agents, by the gateway, and by ``write_part``.
_OF_OTHERS = ("agents", "lastUsedAt", "dataAPI")

# The operator's conditions that an object has at some times only; any other one stays once it is there.
_COMING_AND_GOING = frozenset({ConditionType.READY, ConditionType.STALLED, ConditionType.AUDIT_RETENTION_APPLIED})

# How often a write is tried that conflicts with the writes of others.
_ATTEMPTS = 5


def differs(current: ApiModel, desired: ApiModel) -> bool:
    """Whether to apply ``desired`` would change the status; other owners' entries in shared lists do not count."""
    old, new = current.dump(), desired.dump()
    for name in _SHARED:
        present, ours = old.pop(name, []), new.pop(name, [])
        if any(item not in present for item in ours):
            return True
        if name == "conditions" and _types(present) & _COMING_AND_GOING != _types(ours) & _COMING_AND_GOING:
            return True
    return bool(old != new)


def _types(conditions: list[dict[str, Any]]) -> set[str]:
    return {condition["type"] for condition in conditions}


async def write_status(kube: Kube, cache: Cache, resource: R, desired: ApiModel) -> R:
    """Apply the whole status that the operator owns, if it differs; returns the object as it is then.

    If the object is gone meanwhile, it is returned as it was.
    """
    current: ApiModel = resource.status  # type: ignore[attr-defined]  # every concrete kind has one
    if not differs(current, desired):
        return resource
    status = {name: value for name, value in desired.dump().items() if name not in _OF_OTHERS}
    meta = resource.metadata
    # The uid keeps a status from landing on another object of the same name.
    body = {"metadata": {**_name_of(resource), "uid": meta.uid}, "status": status}
    try:
        answer = await kube.apply(resource_type(type(resource)), body, subresource="status")
    except (NotFound, Conflict):
        return resource
    fresh = type(resource).parse(answer)
    if changed_by_us_alone(resource, fresh, desired):
        cache.refresh(fresh)
    return fresh


async def write_part(kube: Kube, cache: Cache, resource: R, part: StatusPart) -> None:
    """Apply the part, if it differs from what the object has. Raises Transient.

    An object that is gone meanwhile, or another one of its name, is none to write to. The answer is kept as if the
    watch had brought it: an attempt that follows at once must not take the status of before for that of now.
    """
    current: dict[str, Any] = resource.status.dump()  # type: ignore[attr-defined]  # every concrete kind has one
    conditions = [condition.dump() for condition in part.conditions]
    fields = {name: value for name, value in part.fields.items() if value is not None}
    present = [condition for condition in current.get("conditions", []) if condition["type"] in part.types]
    if present == conditions and all(current.get(name) == value for name, value in part.fields.items()):
        return
    status = {**fields, **({"conditions": conditions} if conditions else {})}
    body = {"metadata": {**_name_of(resource), "uid": resource.metadata.uid}, "status": status}
    with contextlib.suppress(NotFound, Conflict):
        answer = await kube.apply(resource_type(type(resource)), body, subresource="status", manager=part.manager)
        cache.refresh(type(resource).parse(answer), own=False)


def changed_by_us_alone(before: Resource, after: Resource, desired: ApiModel) -> bool:
    """Whether nobody else changed an object between the decision on it and the write of its status.

    ``before`` is the object as it was decided on, ``after`` as it is once ``desired`` is written. If somebody else did,
    the cache must not have this version yet: the watch brings it, which is what has the object decided on again.
    """
    ours = {c.type for c in getattr(desired, "conditions", [])} | _COMING_AND_GOING

    def foreign(resource: Resource) -> tuple[Any, ...]:
        status: Any = resource.status  # type: ignore[attr-defined]  # every concrete kind has one
        meta = resource.metadata
        kept = [c for c in status.conditions if c.type not in ours]
        return (meta.uid, meta.generation, meta.deletion_timestamp, getattr(status, "agents", []), kept)

    return foreign(before) == foreign(after)


async def set_finalizer(kube: Kube, resource: R, finalizer: str, *, present: bool) -> R:
    """Add or remove one finalizer, with the others as they are; returns the object as it is now.

    Raises Transient when others keep changing the object.
    """
    kind = resource_type(type(resource))
    for _ in range(_ATTEMPTS):
        kept = [name for name in resource.metadata.finalizers if name != finalizer]
        desired = [*kept, finalizer] if present else kept
        if desired == resource.metadata.finalizers:
            return resource
        body = {"metadata": {"finalizers": desired, "resourceVersion": resource.metadata.resource_version}}
        try:
            return type(resource).parse(await kube.merge(kind, *resource.key, body))
        except NotFound:
            return resource
        except Conflict:
            # Somebody else, such as an agent with its report, was faster.
            try:
                fresh = type(resource).parse(await kube.get(kind, *resource.key))
            except NotFound:
                return resource
            if fresh.metadata.uid != resource.metadata.uid:
                return resource
            resource = fresh
    raise Transient(Reason.WAITING, f"{resource.display} is changed by others all the time")


def _name_of(resource: Resource) -> dict[str, str]:
    namespace, name = resource.key
    return {"namespace": namespace, "name": name} if namespace else {"name": name}
