import asyncio
from typing import Any

import pytest
from tests.harness.builders import NOW, api_key, rule, true

from vaultbrix.api.accessrule import AccessRuleStatus
from vaultbrix.api.conditions import ConditionType, StatusPart
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.status import changed_by_us_alone, differs, write_part, write_status

AGENT = {"name": "node-1", "generation": 1, "hba": True, "kernel": True, "at": "2026-12-01T12:00:00Z"}


def status(**fields: Any) -> AccessRuleStatus:
    return AccessRuleStatus.model_validate({"observedGeneration": 1, "phase": "Open", **fields})


def test_the_same_status_is_not_written_again() -> None:
    assert not differs(status(), status())
    assert not differs(status(conditions=true("Ready")), status(conditions=true("Ready")))


@pytest.mark.parametrize(
    "wanted",
    [
        status(phase="Expired"),
        status(observedGeneration=2),
        status(closedAt="2026-12-01T12:00:00Z"),
        status(phase=None),
        status(conditions=true("Accepted")),
        status(conditions=[{**true("Ready")[0], "message": "new"}]),
        status(conditions=[{**true("Ready")[0], "status": "False"}]),
        status(conditions=[{**true("Ready")[0], "observedGeneration": 2}]),
    ],
)
def test_every_difference_is_written(wanted: AccessRuleStatus) -> None:
    assert differs(status(conditions=true("Ready")), wanted)


def test_what_other_owners_wrote_is_no_difference() -> None:
    present = status(conditions=true("Ready", "Enforced"), agents=[AGENT])
    assert not differs(present, status(conditions=true("Ready")))


@pytest.mark.parametrize("gone", ["Ready", "Stalled", "AuditRetentionApplied"])
def test_a_condition_of_ours_that_is_to_go_is_a_difference(gone: str) -> None:
    present = status(conditions=true("Accepted", gone))
    assert differs(present, status(conditions=true("Accepted")))
    after = rule(metadata={"resourceVersion": "2"}, status={"conditions": true("Accepted")})
    assert changed_by_us_alone(rule(status=present.dump()), after, status(conditions=true("Accepted")))


def test_times_finer_than_the_api_keeps_are_no_difference() -> None:
    assert not differs(status(openedAt="2026-12-01T12:00:00Z"), status(openedAt="2026-12-01T12:00:00.25Z"))


def test_a_field_that_is_set_to_nothing_is_a_difference() -> None:
    assert differs(status(closedReason="Revoked"), status())


@pytest.mark.parametrize(
    ("metadata", "fields", "alone"),
    [
        ({}, {}, True),
        ({}, {"phase": "Expired", "conditions": true("Ready")}, True),
        ({"generation": 2}, {}, False),
        ({"deletionTimestamp": "2026-12-01T12:00:00Z"}, {}, False),
        ({}, {"agents": [AGENT]}, False),
        ({}, {"conditions": true("Ready", "Enforced")}, False),
    ],
)
def test_what_came_in_while_we_wrote_is_not_taken_for_known(
    metadata: dict[str, Any], fields: dict[str, Any], alone: bool
) -> None:
    after = rule(metadata={"resourceVersion": "2", **metadata}, status=fields)
    assert changed_by_us_alone(rule(), after, status(conditions=true("Ready"))) is alone


def test_what_agents_and_the_gateway_write_is_never_claimed_with_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    applied = []

    async def apply(_: Kube, kind: object, body: dict[str, Any], *, subresource: str) -> dict[str, Any]:
        applied.append(body["status"])
        return used.dump()

    monkeypatch.setattr(Kube, "apply", apply)
    used = api_key(status={"lastUsedAt": "2026-12-01T12:00:00Z"})
    kube, ended = Kube("test"), used.status.model_copy(update={"closed_at": NOW})
    assert asyncio.run(write_status(kube, Cache(), used, used.status)) is used
    asyncio.run(write_status(kube, Cache(), used, ended))
    (status,) = applied
    assert status["closedAt"] == "2026-12-01T12:00:00Z"
    assert "lastUsedAt" not in status


def test_an_attempt_that_follows_at_once_sees_the_part_that_was_just_written(monkeypatch: pytest.MonkeyPatch) -> None:
    applied = []

    async def apply(_: Kube, kind: object, body: dict[str, Any], *, subresource: str, manager: str) -> dict[str, Any]:
        applied.append(body["status"]["conditions"][0]["status"])
        version = str(len(applied) + 1)
        return rule(metadata={"resourceVersion": version}, status=body["status"]).dump()

    monkeypatch.setattr(Kube, "apply", apply)
    cache = Cache()
    cache.put(rule(metadata={"resourceVersion": "1"}, status={"conditions": true("DataAPIReady")}))

    async def write(status: str) -> None:
        (cached,) = cache.rules
        (condition,) = rule(status={"conditions": [{**true("DataAPIReady")[0], "status": status}]}).status.conditions
        part = StatusPart("tests", frozenset({ConditionType.DATA_API_READY}), [condition], {})
        await write_part(Kube("tests"), cache, cached, part)

    async def story() -> None:
        for status in ("True", "False", "True", "True"):
            await write(status)

    asyncio.run(story())
    assert applied == ["False", "True"]
