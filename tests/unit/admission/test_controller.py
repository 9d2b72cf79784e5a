"""Who is told when the policies go or change, and what a process remembers of decisions."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.harness.builders import HOUR, NOW, SECOND, approval, server
from tests.harness.policy_objects import BOUND, NAME, NAMES, SPEC, PolicyObjects

from vaultbrix.admission import controller
from vaultbrix.admission.decisions import SETTLING, spec_sha256
from vaultbrix.admission.guard import Guard
from vaultbrix.admission.memory import StandingFile
from vaultbrix.admission.policies import Policies, PolicyList
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import rfc3339
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.resources import ADMISSION_BINDINGS, ADMISSION_POLICIES, CONFIG_MAPS

KIND = "DDLApproval"


class Watched:
    """Policies that the operator looks at, and how often somebody was told."""

    def __init__(self, names: PolicyList | None = NAMES) -> None:
        self.api, cache = PolicyObjects(), Cache()
        cache.put(server())
        self.registry, self.told = Registry(), 0
        self.policies = Policies(self.api, names)
        controller.register(self.registry, self.api, cache, self.policies)
        self.policies.on_change(lambda _: self._tell())

    def _tell(self) -> None:
        self.told += 1

    def look(self, *, after: Any = 0 * SECOND) -> bool | None:
        self.api.now += after
        (periodic,) = self.registry.periodic
        asyncio.run(periodic.work())
        return self.policies.state().status


@pytest.fixture
def watched() -> Watched:
    made = Watched()
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
    none = Watched(None)
    assert not none.registry.periodic
    assert not none.registry.resyncs
    assert none.policies.state()[:2] == (None, Reason.NOT_INSTALLED)
    assert asyncio.run(Guard(none.policies, KIND).objection(approval().metadata)) is None


def test_a_decision_counts_once_the_object_was_seen_undecided_since(watched: Watched) -> None:
    guard, waits = Guard(watched.policies, KIND), approval(metadata={"creationTimestamp": rfc3339(NOW - 2 * HOUR)})
    found = asyncio.run(guard.objection(waits.metadata))
    assert found is not None
    assert found.final
    guard.saw_undecided(waits.metadata, NOW)
    assert asyncio.run(guard.objection(waits.metadata)) is None
    guard.forget(waits.metadata.uid)
    assert asyncio.run(guard.objection(waits.metadata)) is not None


def test_what_changes_before_the_decision_is_seen_by_the_look_before_it_is_taken_over(watched: Watched) -> None:
    guard, waits = Guard(watched.policies, KIND), approval()
    guard.saw_undecided(waits.metadata, NOW)
    watched.api.put(ADMISSION_POLICIES, SPEC, generation=3)
    watched.api.now += SECOND
    held = asyncio.run(guard.objection(waits.metadata))
    assert held is not None
    assert not held.final
    watched.api.now += SETTLING
    void = asyncio.run(guard.objection(waits.metadata))
    assert void is not None
    assert void.final


def test_what_was_taken_over_stays(watched: Watched) -> None:
    guard, runs = Guard(watched.policies, KIND), approval()
    guard.saw_undecided(runs.metadata, NOW)
    assert asyncio.run(guard.objection(runs.metadata)) is None
    guard.take(runs.metadata)
    watched.api.objects.clear()
    assert asyncio.run(guard.objection(runs.metadata)) is None
    another = replace(runs.metadata, uid="another")
    assert asyncio.run(guard.objection(another)) is not None


def test_what_was_taken_over_on_some_terms_is_not_on_others(watched: Watched) -> None:
    guard, of = Guard(watched.policies, KIND), replace(approval().metadata, creation_timestamp=NOW - 2 * HOUR)
    guard.take(of, "these")
    assert asyncio.run(guard.objection(of, "these")) is None
    assert asyncio.run(guard.objection(of, "others")) is not None
    guard.saw_undecided(of, NOW, "others")
    assert asyncio.run(guard.objection(of, "others")) is None
    assert asyncio.run(guard.objection(of, "third")) is not None


def test_what_another_look_has_found_is_told_at_the_next(watched: Watched) -> None:
    policy = watched.api.objects.pop("ValidatingAdmissionPolicy")
    asyncio.run(watched.policies.look())
    watched.api.objects["ValidatingAdmissionPolicy"] = policy
    assert watched.look() is True
    assert watched.api.events == [("Warning", "PoliciesMissing"), ("Normal", "Enforced")]


def test_without_the_list_of_policies_no_decision_counts(watched: Watched) -> None:
    for data, reason in ((None, Reason.POLICIES_MISSING), ({}, Reason.POLICIES_CHANGED)):
        watched.api.objects.pop(CONFIG_MAPS.kind, None)
        if data is not None:
            watched.api.name_policies(data)
        assert watched.look() is False
        assert watched.policies.state().reason is reason
        held = asyncio.run(Guard(watched.policies, KIND).objection(approval().metadata))
        assert held is not None
        assert not held.final
    watched.api.name_policies({NAME: spec_sha256(SPEC)})
    assert watched.look() is True


class Kept:
    """A process that keeps on disk what it knew, started anew."""

    def __init__(self, folder: Path, api: PolicyObjects) -> None:
        self.policies = Policies(api, NAMES, StandingFile(folder / "admission.json"))

    def look(self) -> bool | None:
        asyncio.run(self.policies.look())
        return self.policies.state().status


def test_a_process_with_a_memory_knows_since_when_after_a_restart(tmp_path: Path) -> None:
    api = PolicyObjects()
    api.put(ADMISSION_BINDINGS, BOUND, generation=3)
    first = Kept(tmp_path, api)
    first.look()
    api.now += HOUR
    assert first.look() is True
    again = Kept(tmp_path, api)
    assert again.policies.state().status is None, "nothing holds before it has looked"
    assert again.look() is True
    assert again.policies.in_force_since == first.policies.in_force_since
    # Changed while it was away.
    api.put(ADMISSION_BINDINGS, BOUND, generation=5)
    later = Kept(tmp_path, api)
    assert later.look() is None
    assert later.policies.in_force_since is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"since": "soon"}'])
def test_a_memory_that_cannot_be_used_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "admission.json").write_text(text)
    made = Kept(tmp_path, PolicyObjects())
    assert made.look() is True


def test_a_memory_that_cannot_be_written_holds_nothing_up(tmp_path: Path) -> None:
    made = Kept(tmp_path / "missing", PolicyObjects())
    assert made.look() is True


@pytest.mark.parametrize("text", ["x", "/x", "x/", "a/b/c"])
def test_a_list_of_policies_without_its_namespace_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAMESPACE/NAME"):
        PolicyList.parse(text)
    assert PolicyList.parse("system/x-admission") == NAMES
