from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, approval, tenant

from vaultbrix.api.ddlapproval import DDLApproval, DDLApprovalSpec
from vaultbrix.api.meta import rfc3339
from vaultbrix.ddl.plan import plan
from vaultbrix.ddl.refusals.decisions import (
    LABEL,
    MOST_AN_HOUR,
    MOST_PENDING,
    Obstacle,
    Refusal,
    Request,
    answer,
    asked_by,
    is_of,
)

TEXT = "DROP TABLE a"
ACME = tenant()


def refusal(text: str = TEXT, *, person: str = "jane@example.com", role: str = "tenant_acme", of: str = "") -> Refusal:
    return Refusal(NOW, role, of, person, "203.0.113.7", text)


def made(
    phase: str | None, *, name: str = "by-hand", ours: bool = False, ago: timedelta = MINUTE, **status: Any
) -> DDLApproval:
    told = {"sha256": plan(TEXT).sha256, **({"phase": phase} if phase else {}), **status}
    metadata: dict[str, Any] = {"creationTimestamp": rfc3339(NOW - ago)}
    if ours:
        metadata["labels"] = {LABEL: "true"}
    return approval(name, metadata=metadata, status=told)


def asked(*there: DDLApproval, text: str = TEXT) -> Request:
    found = answer(refusal(text), ACME, there, NOW)
    assert isinstance(found, Request), found
    return found


def test_a_refused_text_becomes_a_request_that_its_person_cannot_decide() -> None:
    found = asked()
    spec = DDLApprovalSpec.model_validate(found.spec)
    assert (spec.sql, spec.requested_by, spec.execution) == (TEXT, "jane@example.com", "Session")
    assert "203.0.113.7" in spec.reason
    assert "2026-12-01T12:00:00Z" in spec.reason
    assert found.name.startswith("refused-acme-")


def test_the_same_text_has_the_same_name_and_another_has_another() -> None:
    assert asked().name == asked(text="DROP TABLE a;").name
    assert asked().name != asked(text="DROP TABLE b").name


@pytest.mark.parametrize("phase", [None, "Pending", "Approved", "Running"])
def test_while_a_text_waits_or_is_approved_it_is_not_asked_for_again(phase: str | None) -> None:
    assert answer(refusal(), ACME, [made(phase)], NOW) is None


@pytest.mark.parametrize("phase", ["Denied", "Invalid"])
def test_an_admins_no_stands_until_it_is_deleted(phase: str) -> None:
    assert answer(refusal(), ACME, [made(phase, decidedAt=rfc3339(NOW - HOUR))], NOW) is None


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_what_ended_is_asked_for_again_by_a_later_refusal_only(phase: str) -> None:
    name = asked().name
    over = made(phase, name=name, ours=True, finishedAt=rfc3339(NOW - MINUTE))
    assert asked(over).name == f"{name}-2"
    later = made(phase, name=name, ours=True, finishedAt=rfc3339(NOW + MINUTE))
    assert answer(refusal(), ACME, [later], NOW) is None


def test_what_expired_unused_may_be_asked_for_again() -> None:
    assert asked(made("Expired", expiresAt=rfc3339(NOW - MINUTE))).spec["sql"] == TEXT


def test_one_that_the_operator_has_not_seen_yet_counts_by_its_name() -> None:
    unseen = approval(asked().name)
    assert answer(refusal(), ACME, [unseen], NOW) is None


def test_a_text_that_cannot_be_approved_makes_no_request_and_is_told_once() -> None:
    first, again = (answer(refusal("BEGIN; DROP TABLE a; COMMIT"), ACME, [], NOW) for _ in range(2))
    assert isinstance(first, Obstacle)
    assert isinstance(again, Obstacle)
    assert first.key == again.key
    assert "transaction" in first.message


@pytest.mark.parametrize(
    ("many", "ago"), [(MOST_AN_HOUR, MINUTE), (MOST_PENDING, 2 * HOUR)], ids=["an hour", "pending"]
)
def test_there_is_a_limit_and_it_is_told(many: int, ago: timedelta) -> None:
    phase = "Pending" if ago > HOUR else "Succeeded"
    there = [
        made(phase, name=f"refused-{n}", ours=True, ago=ago, sha256="0" * 64, finishedAt=rfc3339(NOW - MINUTE))
        for n in range(many)
    ]
    found = answer(refusal(), ACME, there, NOW)
    assert isinstance(found, Obstacle)
    assert found.reason == "TooManyRefusals"
    assert isinstance(answer(refusal(), ACME, there[1:], NOW), Request)


@pytest.mark.parametrize(
    ("person", "expected"),
    [
        ("jane@example.com", "jane@example.com"),
        ("jane@example.com, bob@example.com", "jane@example.com,bob@example.com"),
        ("", "tenant:team/acme"),
    ],
)
def test_whoever_may_have_been_refused_is_who_asks(person: str, expected: str) -> None:
    assert asked_by(refusal(person=person), ACME) == expected


@pytest.mark.parametrize("person", ["two words", ", ".join(f"person{number}@example.com" for number in range(20))])
def test_nothing_is_asked_for_when_not_all_can_be_named_who_may_not_decide(person: str) -> None:
    found = answer(refusal(person=person), ACME, [], NOW)
    assert isinstance(found, Obstacle)
    assert found.reason == "RefusedTextRejected"
    assert "spec.requestedBy" in found.message


def test_a_refusal_belongs_to_the_tenant_whose_login_it_was() -> None:
    assert is_of(refusal(), ACME)
    assert is_of(refusal(role="tenant_acme_r_0123456789", of="team/acme"), ACME)
    assert not is_of(refusal(role="tenant_other"), ACME)
    assert not is_of(refusal(role="vaultbrix_d_00", of="team/acme"), ACME), "a Job's"
    assert not is_of(refusal(), tenant(ready=False)), "that of an earlier Tenant"
    assert not is_of(refusal(role="tenant_acme_r_0123456789", of="team/acme"), tenant(ready=False))


@given(st.text(max_size=200), st.text(max_size=40))
def test_no_text_of_a_tenant_breaks_it_and_every_request_is_one_that_the_api_takes(text: str, person: str) -> None:
    found = answer(refusal(text, person=person), ACME, [], NOW)
    if isinstance(found, Request):
        assert DDLApprovalSpec.model_validate(found.spec).sql == text
