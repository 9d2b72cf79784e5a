import pytest
from tests.harness.builders import HOUR, NOW, SECOND, Raw, rule

from vaultbrix.access.receipts.decisions import Usage, blank, receipt, still_open, window
from vaultbrix.api.accessrule import AccessRule, Receipt
from vaultbrix.api.meta import rfc3339

CLOSED = NOW + HOUR


def ended(*agents: Raw, **spec: object) -> AccessRule:
    status = {
        "phase": "Expired",
        "openedAt": rfc3339(NOW + 3 * SECOND),
        "closedAt": rfc3339(CLOSED),
        "closedReason": "Expired",
        "agents": list(agents),
    }
    return rule(status=status, **spec)


def agent(*, at: int = 0, **fields: object) -> Raw:
    return {
        "name": "pg-0", "generation": 1, "hba": False, "kernel": False, "at": rfc3339(CLOSED + at * SECOND), **fields,
    }  # fmt: skip


def made(found: AccessRule, usage: Usage | None) -> Receipt:
    return receipt(found, CLOSED, window(found, server="main", tenant_role="tenant_acme"), usage)


def test_a_receipt_says_when_why_and_what() -> None:
    found = made(ended(), Usage(2, 7, ("tenant_acme.orders",), damaged=False))
    assert found.dump() == {
        "openedAt": "2026-12-01T12:00:03Z",
        "closedAt": "2026-12-01T13:00:00Z",
        "reason": "Expired",
        "sessions": 2,
        "statements": 7,
        "objects": ["tenant_acme.orders"],
        "endedByWatchdog": 0,
        "complete": True,
        "message": "",
    }


@pytest.mark.parametrize(
    ("verdict", "opened", "named"),
    [("Approved", True, "bob@example.com"), ("Approved", False, None), ("Denied", True, None)],
)
def test_a_receipt_names_who_approved_what_was_open(verdict: str, opened: bool, named: str | None) -> None:
    decided = {"verdict": verdict, "by": "bob@example.com", "sha256": "a" * 64, "at": rfc3339(NOW)}
    opened_at = {"openedAt": rfc3339(NOW)} if opened else {}
    found = rule(status={"phase": "Expired", "closedAt": rfc3339(CLOSED), "decided": decided, **opened_at})
    assert blank(found, CLOSED, "").approved_by == named


@pytest.mark.parametrize("usage", [None, Usage(2, 7, ("t",), damaged=True)], ids=["not all there", "damaged"])
def test_a_count_that_may_be_too_low_is_not_given(usage: Usage | None) -> None:
    found = made(ended(), usage)
    assert (found.complete, found.sessions, found.statements, found.objects) == (False, None, None, [])
    assert found.message


def test_more_objects_than_fit_are_cut_and_it_says_so() -> None:
    found = made(ended(), Usage(1, 1, tuple(f"t{n}" for n in range(65)), damaged=False))
    assert len(found.objects) == 64
    assert "64" in found.message
    AccessRule.parse({**ended().dump(), "status": {"receipt": found.dump()}})


def test_a_receipt_fits_the_api_however_long_names_and_messages_are() -> None:
    found = made(ended(), Usage(1, 1, ("x" * 1000,), damaged=False))
    assert [len(name) for name in found.objects] == [255]
    assert len(blank(ended(), CLOSED, "x" * 5000).message) == 1024


def test_an_earlier_rule_of_the_same_name_is_outside_of_the_window() -> None:
    asked = window(ended(), server="main", tenant_role="tenant_acme")
    assert (asked.since, asked.until) == (NOW - SECOND, CLOSED + 5 * SECOND)
    assert (asked.rule, asked.role) == ("team/jane", None)
    later = window(ended(startsAt="2026-12-01T12:30:00Z"), server="main", tenant_role="tenant_acme")
    assert later.since == NOW + HOUR / 2 - SECOND


def test_a_login_of_its_own_names_the_rule_whatever_it_is_called() -> None:
    asked = window(ended(login="PerRule"), server="main", tenant_role="tenant_acme")
    assert asked.role is not None
    assert asked.role.startswith("tenant_acme_r_")


def test_the_window_lasts_until_the_last_agent_has_closed_the_rule() -> None:
    asked = window(ended(agent(at=600)), server="main", tenant_role="tenant_acme")
    assert asked.until == CLOSED + 605 * SECOND


@pytest.mark.parametrize("open_", [{"hba": True}, {"kernel": True}, {"openSessions": 1}], ids=str)
def test_an_agent_that_has_not_closed_the_rule_is_named(open_: Raw) -> None:
    assert still_open(ended(agent(**open_))) == "pg-0"
    assert still_open(ended(agent())) is None
    assert still_open(ended()) is None
