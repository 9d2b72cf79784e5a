"""Status and finalizers: written only when they differ, so that a controller at rest writes nothing."""

from typing import Any

from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import ApiModel, Resource
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Conflict, Kube, NotFound, resource_type
from vaultbrix.kube.store import R
from vaultbrix.runtime.errors import Transient

_SHARED = ("conditions", "agents")
# What agents and the gateway write into a status, each under its own name as field manager.
_OF_OTHERS = ("agents", "lastUsedAt")

# How often a write is tried that collides with others'.
_ATTEMPTS = 5


def differs(current: ApiModel, wanted: ApiModel) -> bool:
    """Whether applying ``wanted`` would change the status; entries of other owners in shared lists do not count."""
    old, new = current.dump(), wanted.dump()
    for name in _SHARED:
        present, mine = old.pop(name, []), new.pop(name, [])
        if any(item not in present for item in mine):
            return True
    return bool(old != new)


async def write_status(kube: Kube, cache: Cache, resource: R, wanted: ApiModel) -> R:
    """Apply the whole status that the operator owns; returns the object as it is now, or as it was if it is gone."""
    current: ApiModel = resource.status  # type: ignore[attr-defined]  # every concrete kind has one
    if not differs(current, wanted):
        return resource
    status = {name: value for name, value in wanted.dump().items() if name not in _OF_OTHERS}
    meta = resource.metadata
    # The uid keeps a status from landing on another object of the same name.
    body = {"metadata": {**_where(resource), "uid": meta.uid}, "status": status}
    try:
        answer = await kube.apply(resource_type(type(resource)), body, subresource="status")
    except (NotFound, Conflict):
        return resource
    fresh = type(resource).parse(answer)
    if changed_by_us_alone(resource, fresh, wanted):
        cache.refresh(fresh)
    return fresh


def changed_by_us_alone(before: Resource, after: Resource, wanted: ApiModel) -> bool:
    """Whether an object that was just written holds nothing of others that was not there when it was decided on.

    If it does, the events of the watch must find it new, since they are what brings the object back to work.
    """
    ours = {c.type for c in getattr(wanted, "conditions", [])}

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
        wanted = [*kept, finalizer] if present else kept
        if wanted == resource.metadata.finalizers:
            return resource
        body = {"metadata": {"finalizers": wanted, "resourceVersion": resource.metadata.resource_version}}
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


def _where(resource: Resource) -> dict[str, str]:
    namespace, name = resource.key
    return {"namespace": namespace, "name": name} if namespace else {"name": name}
