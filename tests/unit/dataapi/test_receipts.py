"""The receipt of an ended key: when it begins, whose it is, and that no count is given that may be too low unsaid."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND, api_key, server, tenant

from vaultbrix.api.apikey import APIKey, APIKeyStatus, KeyReceipt
from vaultbrix.api.meta import rfc3339
from vaultbrix.audit.receipts.decisions import FIRST_PAUSE, GIVE_UP_AFTER
from vaultbrix.dataapi.decisions import KeyFacts, NewKey, decide, key_status
from vaultbrix.dataapi.progress import receipt_line
from vaultbrix.dataapi.receipts.decisions import (
    Usage,
    blank,
    complete_until,
    count_due,
    receipt,
    receipt_to_show,
    window,
)

CLOSED = NOW + HOUR
STORE = server(auditSecretRef={"namespace": "vaultbrix-system", "name": "audit"})
WITHOUT_STORE = server()


def made(number: int) -> NewKey:
    return NewKey(f"{number:064x}", f"vbx_secret_{number:09}")


def after(before: APIKey, now: datetime, new_key: NewKey | None = None, **spec: object) -> APIKey:
    """The object some time later, with a key that was made then and some fields of its spec set."""
    raw = before.dump()
    before = APIKey.parse({**raw, "spec": {**raw["spec"], **spec}})
    status = key_status(before, KeyFacts(decide(before, tenant(), now), new_key), now)
    return APIKey.parse({**before.dump(), "status": status.dump()})


def begun(found: APIKey) -> KeyReceipt:
    assert found.status.receipt is not None
    return found.status.receipt


NEW = after(api_key(), NOW, made(1))
ENDED = after(NEW, CLOSED, revoked=True)
USED = Usage(
    requests=7,
    refused=2,
    first_used_at=NOW + MINUTE,
    last_used_at=NOW + 2 * MINUTE + SECOND / 2,
    last_address="198.51.100.7",
    until=CLOSED + MINUTE + SECOND / 2,
    damaged=False,
)


def counted(found: APIKey, usage: Usage | None) -> KeyReceipt:
    return receipt(begun(found), window(found, begun(found), server="main"), usage)


def test_a_receipt_says_how_often_when_from_where_and_until_when() -> None:
    assert counted(ENDED, USED).dump() == {
        "createdAt": rfc3339(NOW),
        "closedAt": rfc3339(CLOSED),
        "reason": "Revoked",
        "requests": 7,
        "refused": 2,
        "firstUsedAt": rfc3339(NOW + MINUTE),
        "lastUsedAt": rfc3339(NOW + 2 * MINUTE),
        "lastAddress": "198.51.100.7",
        "completeUntil": rfc3339(CLOSED + MINUTE),
        "message": "",
    }


def test_what_is_counted_is_what_the_status_gives_back() -> None:
    """Else it would be written for ever."""
    found = counted(ENDED, USED)
    assert APIKeyStatus.model_validate({"receipt": found.dump()}).receipt == found
    assert APIKeyStatus.model_validate({"receipt": blank(begun(ENDED), "x" * 5000).dump()}).receipt is not None


def test_a_list_of_keys_tells_counts_and_whose() -> None:
    assert receipt_line(None) == ""
    assert receipt_line(begun(ENDED)) == "not counted"
    assert receipt_line(counted(ENDED, USED)) == "7 requests, 2 refused since"
    rotated = after(NEW, NOW + MINUTE, made(2), rotateToken="x")
    assert receipt_line(counted(rotated, USED)) == "vbx_secret_000000001…: 7 requests, 2 refused since"


def test_a_key_in_use_has_no_receipt() -> None:
    assert NEW.status.receipt is None
    assert count_due(NEW, STORE, NOW) is None
    assert receipt_to_show(NEW, None, STORE) is None


@pytest.mark.parametrize("overlap", ["0s", "30m"])
def test_a_replaced_key_has_a_receipt_from_its_end_on(overlap: str) -> None:
    rotated = after(NEW, NOW + MINUTE, made(2), rotateToken="x", overlap=overlap)
    end = NOW + MINUTE + (HOUR / 2 if overlap != "0s" else 0 * SECOND)
    if overlap != "0s":
        assert rotated.status.receipt is None
        rotated = after(rotated, end)
    found = begun(rotated)
    assert (found.sha256, found.prefix, found.reason) == (made(1).sha256, made(1).prefix, "Rotated")
    assert (found.created_at, found.closed_at) == (NOW, end)
    # It stays until there is another end.
    assert begun(after(rotated, end + HOUR)) == found
    again = after(rotated, end + HOUR, made(3), rotateToken="y", overlap="0s")
    assert begun(again).sha256 == made(2).sha256


def test_after_the_end_the_receipt_is_of_all_keys_and_stays() -> None:
    rotated = after(NEW, NOW + MINUTE, made(2), rotateToken="x")
    ended = after(rotated, CLOSED, revoked=True)
    assert (begun(ended).sha256, begun(ended).reason, begun(ended).closed_at) == (None, "Revoked", CLOSED)
    assert begun(after(ended, CLOSED + HOUR)) == begun(ended)
    expired = after(after(api_key(ttl="1h"), NOW, made(1)), CLOSED)
    assert begun(expired).reason == "Expired"


def test_only_the_replaced_keys_own_text_counts_for_it() -> None:
    rotated = after(NEW, NOW + MINUTE, made(2), rotateToken="x")
    asked = window(rotated, begun(rotated), server="main")
    assert (asked.key, asked.sha256) == (f"key:{rotated.display}", made(1).sha256[:16])
    assert (asked.since, asked.closed_at) == (NOW - SECOND, NOW + MINUTE)
    assert window(ENDED, begun(ENDED), server="main").sha256 is None


def test_nothing_is_counted_before_the_store_has_all_from_before_the_end() -> None:
    asked = window(ENDED, begun(ENDED), server="main")
    assert complete_until(asked, None) is None
    assert complete_until(asked, CLOSED + 4 * SECOND) is None
    assert complete_until(asked, CLOSED + 6 * SECOND) == CLOSED + SECOND
    found = counted(ENDED, None)
    assert (found.requests, found.complete_until) == (None, None)
    assert "does not hold yet" in found.message


def test_counts_of_a_damaged_log_are_not_called_complete() -> None:
    found = counted(ENDED, Usage(7, 2, NOW, NOW, "198.51.100.7", CLOSED + MINUTE, damaged=True))
    assert (found.requests, found.refused, found.complete_until) == (7, 2, None)
    assert "audit.gap" in found.message


def test_what_was_counted_of_another_end_is_not_shown() -> None:
    rotated = after(NEW, NOW + MINUTE, made(2), rotateToken="x")
    late = counted(rotated, USED)
    assert receipt_to_show(rotated, late, STORE) == late
    ended = after(rotated, CLOSED, revoked=True)
    shown = receipt_to_show(ended, late, STORE)
    assert shown is not None
    assert (shown.sha256, shown.requests, shown.message) == (None, None, "not counted yet")


def test_without_a_store_the_receipt_says_so() -> None:
    for where in (WITHOUT_STORE, None):
        shown = receipt_to_show(ENDED, None, where)
        assert shown is not None
        assert "spec.auditSecretRef" in shown.message
        assert count_due(ENDED, where, CLOSED) is None


def test_an_end_of_long_ago_that_nobody_has_counted_is_counted_once() -> None:
    late = CLOSED + 9 * HOUR
    assert count_due(ENDED, STORE, late) == late + FIRST_PAUSE
    for told in (counted(ENDED, None), counted(ENDED, USED)):
        raw = ENDED.dump()
        asked = APIKey.parse({**raw, "status": {**raw["status"], "receipt": told.dump()}})
        assert count_due(asked, STORE, late) is None


@given(st.timedeltas(min_value=0 * SECOND, max_value=2 * HOUR))
def test_it_is_counted_for_an_hour_however_complete(since: object) -> None:
    raw = ENDED.dump()
    complete = APIKey.parse({**raw, "status": {**raw["status"], "receipt": counted(ENDED, USED).dump()}})
    now = CLOSED + since  # type: ignore[operator]
    due = count_due(complete, STORE, now)
    assert (due is None) == (now >= CLOSED + GIVE_UP_AFTER)
