"""The status of an APIKey: every condition every time, keys newest first, and what Events say of a change."""

import itertools
from datetime import datetime

import pytest
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND, Raw, api_key, named, tenant

from vaultbrix.api.apikey import APIKey, APIKeyStatus, KeyPhase
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.decisions import KeyFacts, NewKey, decide, key_status, next_turn, notices
from vaultbrix.runtime.errors import Blocked, Expected, Transient

TAKEN = Blocked(Reason.SECRET_TAKEN, "Secret shop-api-key exists and is not this APIKey's")
FORBIDDEN = Blocked(Reason.FORBIDDEN, "secrets is forbidden")
AWAY = Transient(Reason.UNREACHABLE, "Kubernetes API: away")
USED = {"lastUsedAt": rfc3339(NOW - MINUTE)}


def made(number: int) -> NewKey:
    return NewKey(f"{number:064x}", f"vbx_secret_{number:09}")


def after(
    before: APIKey,
    new_key: NewKey | None = None,
    failure: Expected | None = None,
    *,
    owner: Tenant | None = None,
    now: datetime = NOW,
) -> APIKeyStatus:
    return key_status(before, KeyFacts(decide(before, owner or tenant(), now), new_key, failure), now)


def grown(before: APIKey, status: APIKeyStatus, **spec: object) -> APIKey:
    """The object with that status, and some fields of its spec set."""
    raw = before.dump()
    return APIKey.parse({**raw, "spec": {**raw["spec"], **spec}, "status": status.dump()})


def hashes(status: APIKeyStatus) -> list[int]:
    return [int(entry.sha256, 16) for entry in status.keys]


MADE = grown(api_key(), after(api_key(), made(1)))
OBJECTS = [api_key(), api_key(revoked=True), api_key(ttl="1s"), api_key(status=USED), MADE]


@pytest.mark.parametrize(
    ("before", "failure"), [*itertools.product(OBJECTS, [None, TAKEN, FORBIDDEN, AWAY])], ids=lambda _: ""
)
@pytest.mark.parametrize("owner", [tenant(), tenant(suspended=True), tenant(ready=False)], ids=["ready", "off", "new"])
def test_every_condition_is_there_every_time(before: APIKey, failure: Expected | None, owner: Tenant) -> None:
    status = after(before, None, failure, owner=owner, now=NOW + HOUR)
    found = [c.type for c in status.conditions if c.type != "Stalled"]
    assert found == ["Accepted", "KeyReady", *([] if status.closed_at else ["Ready"])]
    assert {c.observed_generation for c in status.conditions} == {before.metadata.generation}
    assert status.observed_generation == before.metadata.generation
    assert all(c.message for c in status.conditions)
    assert status.last_used_at == before.status.last_used_at


def test_a_first_key_makes_it_active_and_ready() -> None:
    status = after(api_key(rotateToken="1", ttl="1h"), made(1))
    assert (status.phase, status.secret_name, status.rotate_token) == (KeyPhase.ACTIVE, "shop-api-key", "1")
    assert (status.expires_at, status.closed_at) == (NOW + HOUR, None)
    assert [(e.prefix, e.created_at, e.expires_at) for e in status.keys] == [("vbx_secret_000000001", NOW, None)]
    assert named(status.conditions, "KeyReady").message == "vbx_secret_000000001…, in Secret shop-api-key"
    assert named(status.conditions, "Ready").status == "True"


def test_a_status_that_holds_is_the_same_again() -> None:
    first = after(api_key(), made(1))
    assert after(grown(api_key(), first), now=NOW + HOUR) == first


def test_without_overlap_the_old_key_is_gone_at_once() -> None:
    before = grown(api_key(), after(api_key(), made(1)), rotateToken="2")
    status = after(before, made(2), now=NOW + HOUR)
    assert hashes(status) == [2]
    assert status.rotate_token == "2"


def test_with_overlap_the_old_key_ends_by_it_and_never_later() -> None:
    first = grown(api_key(overlap="1h"), after(api_key(), made(1)), rotateToken="2")
    second = after(first, made(2), now=NOW + MINUTE)
    assert hashes(second) == [2, 1]
    assert second.keys[1].expires_at == NOW + MINUTE + HOUR
    assert next_turn(second, NOW + MINUTE) == NOW + MINUTE + HOUR

    # Shorter holds for the old key as well, longer does not.
    shorter = after(grown(first, second, overlap="2m"), now=NOW + 2 * MINUTE)
    assert shorter.keys[1].expires_at == NOW + 3 * MINUTE
    longer = after(grown(first, shorter, overlap="9h"), now=NOW + 2 * MINUTE)
    assert longer.keys[1].expires_at == NOW + 3 * MINUTE
    assert hashes(after(grown(first, second, overlap="0s"), now=NOW + 2 * MINUTE)) == [2]

    assert hashes(after(grown(first, second), now=NOW + MINUTE + HOUR - SECOND)) == [2, 1]
    assert hashes(after(grown(first, second), now=NOW + MINUTE + HOUR)) == [2]


def test_a_third_key_ends_the_first_whatever_its_overlap() -> None:
    first = grown(api_key(overlap="1h"), after(api_key(), made(1)), rotateToken="2")
    second = grown(first, after(first, made(2)), rotateToken="3")
    assert hashes(after(second, made(3))) == [3, 2]


def test_what_a_rotation_did_not_get_done_leaves_the_old_key_good_and_is_asked_for_again() -> None:
    before = grown(api_key(), after(api_key(), made(1)), rotateToken="2")
    status = after(before, None, AWAY)
    assert (hashes(status), status.rotate_token, status.phase) == ([1], None, KeyPhase.ACTIVE)
    assert named(status.conditions, "KeyReady").reason == "Unreachable"
    assert named(status.conditions, "Ready").reason == "Unreachable"


@pytest.mark.parametrize(
    ("failure", "phase"), [(TAKEN, KeyPhase.REJECTED), (FORBIDDEN, KeyPhase.PENDING), (AWAY, KeyPhase.PENDING)]
)
def test_a_first_key_that_cannot_be_made_is_told_with_its_reason(failure: Expected, phase: KeyPhase) -> None:
    status = after(api_key(), None, failure)
    assert (status.phase, status.keys, status.secret_name) == (phase, [], None)
    assert {c.reason for c in status.conditions} == {failure.reason}
    assert {c.status for c in status.conditions if c.type != "Stalled"} == {"False"}


def test_of_a_key_that_has_ended_the_hash_stays_on_record_and_no_secret_is_named() -> None:
    before = grown(api_key(), after(api_key(), made(1)), revoked=True)
    status = after(before, now=NOW + HOUR)
    assert (status.phase, status.closed_reason, status.closed_at) == (KeyPhase.REVOKED, "Revoked", NOW + HOUR)
    assert (hashes(status), status.secret_name, next_turn(status, NOW)) == ([1], None, None)
    assert named(status.conditions, "Accepted").status == "True"
    assert named(status.conditions, "KeyReady").reason == "KeyEnded"
    again = after(grown(before, status), now=NOW + 2 * HOUR)
    assert again == status


def test_a_suspended_tenants_key_comes_back_as_it_was() -> None:
    first = after(api_key(), made(1))
    held = after(grown(api_key(), first), owner=tenant(suspended=True))
    assert (held.phase, hashes(held), held.secret_name) == (KeyPhase.PENDING, [1], "shop-api-key")
    assert after(grown(api_key(), held)).phase is KeyPhase.ACTIVE


@pytest.mark.parametrize(
    ("status", "turn"),
    [
        ({}, None),
        ({"expiresAt": rfc3339(NOW + HOUR)}, NOW + HOUR),
        ({"expiresAt": rfc3339(NOW - HOUR)}, None),
        ({"expiresAt": rfc3339(NOW + HOUR), "phase": "Revoked"}, None),
    ],
)
def test_it_is_looked_at_again_when_it_ends(status: Raw, turn: datetime | None) -> None:
    assert next_turn(api_key(status=status).status, NOW) == turn


def test_events_tell_of_a_rotation_and_of_the_end_and_of_nothing_else() -> None:
    first = after(api_key(), made(1))
    assert notices(APIKeyStatus(), first) == []
    assert notices(first, first) == []

    (told,) = notices(first, after(grown(api_key(), first, rotateToken="2"), made(2)))
    assert told.reason is Reason.ROTATED
    assert told.message == "vbx_secret_000000002… has replaced vbx_secret_000000001…, which is no longer good"
    (told,) = notices(first, after(grown(api_key(overlap="1h"), first, rotateToken="2"), made(2)))
    assert told.message.endswith("which is good until 2026-12-01T13:00:00Z")
    (told,) = notices(first, after(grown(api_key(), first), made(2)))
    assert told.message.endswith("; the Secret did not hold the old key any more")

    ended = after(grown(api_key(), first, revoked=True))
    assert [notice.reason for notice in notices(first, ended)] == [Reason.REVOKED]
    assert notices(ended, ended) == []
    expired = after(grown(api_key(), first, ttl="1s"), now=NOW + HOUR)
    assert [notice.reason for notice in notices(first, expired)] == [Reason.EXPIRED]
