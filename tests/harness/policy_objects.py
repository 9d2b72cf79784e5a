"""What an API server says of one admission policy, its binding and the ConfigMap that names it, and its clock."""

from datetime import datetime
from typing import Any

from tests.harness.builders import HOUR, NOW

from vaultbrix.admission.decisions import spec_sha256
from vaultbrix.admission.policies import PolicyList
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import Resource, rfc3339
from vaultbrix.kube.client import Kube, NotFound, Object
from vaultbrix.kube.resources import ADMISSION_BINDINGS, ADMISSION_POLICIES, CONFIG_MAPS, ResourceType, resource_type
from vaultbrix.runtime.errors import Transient

NAME = "x-decisions"
NAMES = PolicyList("system", "x-admission")
SPEC: Object = {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": []}, "validations": []}
BOUND: Object = {"policyName": NAME, "validationActions": ["Deny"]}


class PolicyObjects(Kube):
    """What is there by kind, and the events that were written. ``reads`` counts the objects of ours that were read."""

    def __init__(self) -> None:
        super().__init__("test")
        self.now = NOW
        self.away = False
        self.reads = 0
        self.events: list[tuple[str, str]] = []
        self.objects: dict[str, Object] = {}
        self.ours: dict[tuple[str, str, str], Resource] = {}
        self.put(ADMISSION_POLICIES, SPEC)
        self.put(ADMISSION_BINDINGS, BOUND)
        self.name_policies({NAME: spec_sha256(SPEC)})

    def put(self, kind: ResourceType, spec: Object, generation: int = 1, created: datetime = NOW - HOUR) -> None:
        meta = {"name": NAME, "uid": kind.kind, "generation": generation, "creationTimestamp": rfc3339(created)}
        self.objects[kind.kind] = {"metadata": meta, "spec": spec}

    def name_policies(self, data: dict[str, str]) -> None:
        self.objects[CONFIG_MAPS.kind] = {"metadata": {"name": NAMES.name}, "data": data}

    def put_ours(self, known: Resource) -> None:
        self.ours[(resource_type(type(known)).kind, known.metadata.namespace, known.metadata.name)] = known

    def server_now(self) -> datetime:
        return self.now

    async def get(self, kind: ResourceType, namespace: str, name: str) -> Object:
        if self.away:
            raise Transient(Reason.UNREACHABLE, "away")
        if kind in (ADMISSION_POLICIES, ADMISSION_BINDINGS, CONFIG_MAPS):
            expected: Any = (NAMES.namespace, NAMES.name) if kind is CONFIG_MAPS else ("", NAME)
            assert (namespace, name) == expected
            if kind.kind not in self.objects:
                raise NotFound(name)
            return self.objects[kind.kind]
        self.reads += 1
        known = self.ours.get((kind.kind, namespace, name))
        if known is None:
            raise NotFound(name)
        return known.dump()

    async def create(self, kind: ResourceType, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        self.events.append((body["type"], body["reason"]))
        return body
