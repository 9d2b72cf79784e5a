"""Whether a key is good, and what is to become of it."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND, Raw, api_key, tenant

from vaultbrix.api.apikey import APIKey, KeyPhase
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.decisions import decide, is_good, keeps

NEW, OLD, OTHER = "a" * 64, "b" * 64, "c" * 64
DELETING = {"deletionTimestamp": rfc3339(NOW)}


def entry(sha256: str = NEW, *, expires: datetime | None = None) -> Raw:
    end = {"expiresAt": rfc3339(expires)} if expires else {}
    return {"sha256": sha256, "prefix": f"vbx_secret_{sha256[:9]}", "createdAt": rfc3339(NOW), **end}


def active(*, keys: list[Raw] | None = None, status: Raw | None = None, **rest: Any) -> APIKey:
    full = {"phase": "Active", "keys": [entry()] if keys is None else keys, **(status or {})}
    return api_key(status=full, **rest)


def test_the_newest_key_is_good_and_the_one_before_it_until_its_overlap_ends() -> None:
    found = active(keys=[entry(NEW), entry(OLD, expires=NOW + HOUR)])
    assert is_good(found, NEW, NOW)
    assert is_good(found, OLD, NOW + HOUR - SECOND)
    assert not is_good(found, OLD, NOW + HOUR)
    assert is_good(found, NEW, NOW + HOUR)
    assert not is_good(found, OTHER, NOW)


@pytest.mark.parametrize("phase", [None, *(phase for phase in KeyPhase if phase is not KeyPhase.ACTIVE)])
def test_no_key_is_good_in_any_other_phase(phase: KeyPhase | None) -> None:
    assert not is_good(active(status={"phase": phase}), NEW, NOW)


@pytest.mark.parametrize(
    "ended",
    [
        active(revoked=True),
        active(metadata=DELETING),
        active(status={"expiresAt": rfc3339(NOW + MINUTE)}),
        active(expiresAt=rfc3339(NOW + MINUTE)),
        active(ttl="1m"),
    ],
)
def test_a_key_that_the_object_ends_is_refused_before_the_operator_has_seen_it(ended: APIKey) -> None:
    assert not is_good(ended, NEW, NOW + MINUTE)


def test_a_key_that_is_prolonged_is_good_for_longer_only_once_the_operator_says_so() -> None:
    prolonged = active(status={"expiresAt": rfc3339(NOW + MINUTE)}, ttl="1h")
    assert is_good(prolonged, NEW, NOW + MINUTE - SECOND)
    assert not is_good(prolonged, NEW, NOW + MINUTE)


@pytest.mark.parametrize(
    ("key", "owner", "phase", "reason"),
    [
        (api_key(), tenant(), KeyPhase.ACTIVE, Reason.ACCEPTED),
        (api_key(ttl="1h"), tenant(), KeyPhase.ACTIVE, Reason.ACCEPTED),
        (api_key(), None, KeyPhase.PENDING, Reason.TENANT_NOT_FOUND),
        (api_key(), tenant(suspended=True), KeyPhase.PENDING, Reason.TENANT_SUSPENDED),
        (api_key(), tenant(ready=False), KeyPhase.PENDING, Reason.TENANT_NOT_READY),
        (api_key(), tenant(metadata=DELETING), KeyPhase.PENDING, Reason.TENANT_NOT_READY),
        (api_key(ttl="1m"), tenant(), KeyPhase.EXPIRED, Reason.EXPIRED),
        (api_key(expiresAt=rfc3339(NOW + MINUTE)), None, KeyPhase.EXPIRED, Reason.EXPIRED),
        (api_key(expiresAt=rfc3339(NOW)), tenant(), KeyPhase.EXPIRED, Reason.DEADLINE_PASSED),
        (api_key(revoked=True), tenant(), KeyPhase.REVOKED, Reason.REVOKED),
        (api_key(revoked=True, ttl="1m"), tenant(), KeyPhase.REVOKED, Reason.REVOKED),
        (api_key(metadata=DELETING), tenant(), KeyPhase.REVOKED, Reason.REVOKED),
        # What has ended stays so, whatever is edited and whichever way the clock goes.
        (active(status={"phase": "Revoked"}), tenant(), KeyPhase.REVOKED, Reason.REVOKED),
        (active(status={"closedAt": rfc3339(NOW)}, ttl="99h"), tenant(), KeyPhase.EXPIRED, Reason.EXPIRED),
        (active(status={"closedAt": rfc3339(NOW + HOUR)}), tenant(), KeyPhase.EXPIRED, Reason.EXPIRED),
    ],
)
def test_each_state_of_the_world_has_its_phase_and_reason(
    key: APIKey, owner: Tenant | None, phase: KeyPhase, reason: Reason
) -> None:
    verdict = decide(key, owner, NOW + MINUTE)
    assert (verdict.phase, verdict.reason) == (phase, reason)
    assert verdict.message


def test_the_end_is_told_to_the_second_of_the_api() -> None:
    assert decide(api_key(ttl="1h"), tenant(), NOW).message == "good until 2026-12-01T13:00:00Z"
    assert decide(api_key(), tenant(), NOW).message == "good until it is revoked"
    ended = decide(api_key(ttl="1m"), tenant(), NOW + HOUR)
    assert ended.message == "the key ended at 2026-12-01T12:01:00Z; create another APIKey"


def test_the_newest_key_is_kept_unless_another_token_asks_for_a_new_one() -> None:
    made = active(status={"rotateToken": "1"})
    assert keeps(made, NEW)
    assert keeps(active(status={"rotateToken": "1"}, rotateToken="1"), NEW)
    assert not keeps(active(status={"rotateToken": "1"}, rotateToken="2"), NEW)
    assert not keeps(active(rotateToken="1"), NEW)
    assert not keeps(api_key(), NEW)


def test_a_text_that_is_not_the_newest_key_is_never_kept() -> None:
    both = active(keys=[entry(NEW), entry(OLD, expires=NOW + HOUR)])
    assert not keeps(both, OLD)
    assert not keeps(both, OTHER)


MOMENTS = st.integers(-7200, 7200).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(
    now=MOMENTS,
    end=st.none() | MOMENTS,
    written_end=st.none() | MOMENTS,
    overlap_end=MOMENTS,
    phase=st.sampled_from(KeyPhase),
    revoked=st.booleans(),
    sha256=st.sampled_from([NEW, OLD, OTHER]),
)
def test_a_key_is_good_exactly_as_the_contract_says(
    now: datetime, end: datetime | None, written_end: datetime | None, overlap_end: datetime, phase: KeyPhase,
    revoked: bool, sha256: str,
) -> None:  # fmt: skip
    ends = {"expiresAt": rfc3339(end)} if end else {}
    written = {"expiresAt": rfc3339(written_end)} if written_end else {}
    keys = [entry(NEW), entry(OLD, expires=overlap_end)]
    found = active(keys=keys, status={"phase": phase, **written}, revoked=revoked, **ends)
    lasts = {NEW: True, OLD: now < overlap_end, OTHER: False}[sha256]
    in_time = all(now < limit for limit in (end, written_end) if limit is not None)
    assert is_good(found, sha256, now) is (lasts and in_time and phase == "Active" and not revoked)
