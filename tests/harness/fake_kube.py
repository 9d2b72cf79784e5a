"""An API server in memory, for tests of what a person may ask for: no process, no waiting, every write kept."""

import copy
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import Resource, rfc3339
from vaultbrix.kube.client import Conflict, Gone, NotFound, ResourceType, resource_type
from vaultbrix.runtime.errors import Blocked, Transient

Raw = dict[str, Any]

GONE = Gone("too old")


class FakeKube:
    """As kube.client.Kube, for objects of our kinds.

    ``forbidden`` holds (verb, plural) that this person may not, with ``-all`` behind the plural only not over all
    namespaces. ``conflicts``: so many patches are refused first. ``events``: what a watch yields; an exception is
    raised. ``unreachable``: so many reads of single objects fail first.
    """

    def __init__(self, *resources: Resource, who: str = "jane@example.com") -> None:
        self.who = who
        self.forbidden: set[tuple[str, str]] = set()
        self.conflicts = 0
        self.unreachable = 0
        self.events: list[list[Raw | Exception]] = []
        self.created: list[Raw] = []
        self.patched: list[Raw] = []
        self._objects: dict[tuple[str, str, str], Raw] = {}
        self._coming: dict[str, list[Raw | None]] = {}
        self._versions = itertools.count(100)
        for resource in resources:
            self.put(resource)

    def put(self, resource: Resource) -> None:
        """Have that object, under a new version."""
        self.put_raw(resource_type(type(resource)), resource.dump())

    def put_raw(self, kind: ResourceType, raw: Raw) -> Raw:
        """Have that object, whether it can be read or not."""
        kept = {"apiVersion": kind.api_version, "kind": kind.kind, **copy.deepcopy(raw)}
        kept["metadata"]["resourceVersion"] = str(next(self._versions))
        self._objects[(kind.plural, kept["metadata"].get("namespace", ""), kept["metadata"]["name"])] = kept
        return copy.deepcopy(kept)

    def then(self, name: str, *changes: Raw | None) -> None:
        """At each further read of the object of that name, change it once more; None deletes it, {} changes nothing."""
        self._coming[name] = list(changes)

    async def whoami(self) -> str:
        return self.who

    async def get(self, kind: ResourceType, namespace: str, name: str) -> Raw:
        self._check("get", kind, namespace)
        if self.unreachable:
            self.unreachable -= 1
            raise Transient(Reason.UNREACHABLE, "Kubernetes API: away")
        key = (kind.plural, namespace, name)
        if self._coming.get(name):
            change = self._coming[name].pop(0)
            if change is None:
                self._objects.pop(key)
            else:
                self.put_raw(kind, _merged(self._objects[key], change))
        if key not in self._objects:
            raise NotFound(f"{kind.plural} {name}")
        return copy.deepcopy(self._objects[key])

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "") -> Raw:
        self._check("list", kind, namespace)
        items = [raw for (plural, where, _), raw in self._objects.items() if plural == kind.plural]
        items = [raw for raw in items if namespace in ("", raw["metadata"].get("namespace", ""))]
        return {"metadata": {"resourceVersion": str(next(self._versions))}, "items": copy.deepcopy(items)}

    async def create(self, kind: ResourceType, namespace: str, body: Raw, *, dry_run: bool = False) -> Raw:
        self._check("create", kind, namespace)
        metadata = dict(body["metadata"])
        name = metadata.setdefault("name", f"{metadata.pop('generateName', '')}new")
        if (kind.plural, namespace, name) in self._objects:
            raise Conflict(f"{kind.plural} {name} exists")
        metadata |= {"uid": f"uid-{name}", "generation": 1, "creationTimestamp": rfc3339(datetime.now(UTC))}
        made = {**body, "metadata": metadata}
        if dry_run:
            return made
        self.created.append(body)
        return self.put_raw(kind, made)

    async def merge(self, kind: ResourceType, namespace: str, name: str, body: Raw) -> Raw:
        self._check("patch", kind, namespace)
        key = (kind.plural, namespace, name)
        if key not in self._objects:
            raise NotFound(f"{kind.plural} {name}")
        version = body.get("metadata", {}).get("resourceVersion")
        if self.conflicts or version not in (None, self._objects[key]["metadata"]["resourceVersion"]):
            self.conflicts = max(0, self.conflicts - 1)
            raise Conflict(f"{kind.plural} {name} was changed")
        self.patched.append(body)
        newer = {"generation": self._objects[key]["metadata"]["generation"] + 1}
        return self.put_raw(kind, _merged(self._objects[key], {"metadata": newer, "spec": body["spec"]}))

    async def watch(self, kind: ResourceType, resource_version: str, namespace: str = "") -> AsyncIterator[Raw]:
        assert resource_version
        for event in self.events.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event

    def _check(self, verb: str, kind: ResourceType, namespace: str) -> None:
        everywhere = kind.namespaced and not namespace and (verb, f"{kind.plural}-all") in self.forbidden
        if everywhere or (verb, kind.plural) in self.forbidden:
            raise Blocked(Reason.FORBIDDEN, f'cannot {verb} resource "{kind.plural}"')


def _merged(old: Raw, change: Raw) -> Raw:
    """As a JSON merge patch without nulls."""
    merged = dict(old)
    for key, value in change.items():
        merged[key] = _merged(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged
