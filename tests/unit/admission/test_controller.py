"""Who is told when the policies go or change, and what the operator remembers of decisions."""

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from tests.harness.builders import HOUR, NOW, SECOND, approval, server

from vaultbrix.admission.controller import Guard, Policies
from vaultbrix.admission.decisions import SETTLING, InstalledPolicy, spec_sha256
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import rfc3339
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube, NotFound, Object
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.resources import ADMISSION_BINDINGS, ADMISSION_POLICIES, ResourceType
from vaultbrix.runtime.errors import Transient

NAME = "x-decisions"
SPEC = {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": []}, "validations": []}
BOUND = {"policyName": NAME, "validationActions": ["Deny"]}
INSTALLED = InstalledPolicy(NAME, spec_sha256(SPEC))


class ApiServer(Kube):
    """One policy with its binding, a clock, and the events that were written."""

    def __init__(self) -> None:
        super().__init__("test")
        self.now = NOW
        self.away = False
        self.events: list[tuple[str, str]] = []
        self.objects: dict[str, Object] = {}
        self.put(ADMISSION_POLICIES, SPEC)
        self.put(ADMISSION_BINDINGS, BOUND)

    def put(self, kind: ResourceType, spec: Object, generation: int = 1, created: datetime = NOW - HOUR) -> None:
        meta = {"name": NAME, "uid": kind.kind, "generation": generation, "creationTimestamp": rfc3339(created)}
        self.objects[kind.kind] = {"metadata": meta, "spec": spec}

    def server_now(self) -> datetime:
        return self.now

    async def get(self, kind: ResourceType, namespace: str, name: str) -> Object:
        assert (namespace, name) == ("", NAME)
        if self.away:
            raise Transient(Reason.UNREACHABLE, "away")
        if kind.kind not in self.objects:
            raise NotFound(name)
        return self.objects[kind.kind]

    async def create(self, kind: ResourceType, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        self.events.append((body["type"], body["reason"]))
        return body


class Watched:
    """Policies that are looked at, and how often somebody was told."""

    def __init__(self, *installed: InstalledPolicy) -> None:
        self.api, cache = ApiServer(), Cache()
        cache.put(server())
        self.registry, self.told = Registry(), 0
        self.policies = Policies(self.registry, self.api, cache, installed)
        self.policies.on_change(self._tell)

    def _tell(self) -> None:
        self.told += 1

    def look(self, *, after: Any = 0 * SECOND) -> bool | None:
        self.api.now += after
        asyncio.run(self.policies.look())
        return self.policies.state().status


@pytest.fixture
def watched() -> Watched:
    made = Watched(INSTALLED)
    assert made.look() is True
    assert made.told == 1
    assert made.api.events == []
    return made


def test_it_is_told_once_that_one_is_gone_and_once_that_it_is_back(watched: Watched) -> None:
    policy = watched.api.objects.pop("ValidatingAdmissionPolicy")
    assert [watched.look(after=20 * SECOND) for _ in range(3)] == [False] * 3
    assert watched.told == 2
    watched.api.objects["ValidatingAdmissionPolicy"] = policy
    assert watched.look() is True
    assert watched.api.events == [("Warning", "PoliciesMissing"), ("Normal", "Enforced")]


def test_a_gap_that_no_look_saw_is_told(watched: Watched) -> None:
    watched.api.put(ADMISSION_BINDINGS, BOUND, generation=3)
    assert watched.look() is None
    assert watched.look(after=SETTLING) is True
    assert watched.api.events == [("Warning", "PoliciesChanged"), ("Normal", "Enforced")]


def test_an_api_server_that_is_away_says_nothing_about_policies(watched: Watched) -> None:
    watched.api.away = True
    assert watched.look() is None
    watched.api.away = False
    assert watched.look() is True


def test_without_policies_nobody_looks_and_every_decision_counts() -> None:
    none = Watched()
    assert not none.registry.periodic
    assert not none.registry.resyncs
    assert none.policies.state()[:2] == (None, Reason.NOT_INSTALLED)
    assert asyncio.run(Guard(none.policies).objection(approval())) is None


def test_a_decision_counts_once_the_object_was_seen_undecided_since(watched: Watched) -> None:
    guard, waits = Guard(watched.policies), approval(metadata={"creationTimestamp": rfc3339(NOW - 2 * HOUR)})
    found = asyncio.run(guard.objection(waits))
    assert found is not None
    assert found.final
    guard.saw_undecided(waits, NOW)
    assert asyncio.run(guard.objection(waits)) is None
    guard.forget(waits)
    assert asyncio.run(guard.objection(waits)) is not None


def test_what_changes_before_the_decision_is_seen_by_the_look_before_it_is_taken_over(watched: Watched) -> None:
    guard, waits = Guard(watched.policies), approval()
    guard.saw_undecided(waits, NOW)
    watched.api.put(ADMISSION_POLICIES, SPEC, generation=3)
    watched.api.now += SECOND
    held = asyncio.run(guard.objection(waits))
    assert held is not None
    assert not held.final
    watched.api.now += SETTLING
    void = asyncio.run(guard.objection(waits))
    assert void is not None
    assert void.final


def test_what_was_taken_over_stays(watched: Watched) -> None:
    guard, runs = Guard(watched.policies), approval()
    guard.saw_undecided(runs, NOW)
    assert asyncio.run(guard.objection(runs)) is None
    guard.take(runs)
    watched.api.objects.clear()
    assert asyncio.run(guard.objection(runs)) is None
    another = runs.model_copy(update={"metadata": replace(runs.metadata, uid="another")})
    assert asyncio.run(guard.objection(another)) is not None
