"""What is wrong with a submission or a decision by itself is told without any cluster."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from tests.harness.builders import Raw, approval

from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.ddl.actions import DecisionOptions, ShownApproval, SubmitOptions, prepare, show_for_decision
from vaultbrix.ddl.plan import digest
from vaultbrix.ddl.submission import Unfit
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.usage import Misused, Refused

T = TypeVar("T")

SQL = "DROP TABLE a"
SHA = digest(SQL).hex()
STATEMENT = {"position": 1, "tag": "DROP TABLE", "gated": True, "sql": SQL, "danger": "Table"}
REHEARSAL = {"possible": True, "at": "2026-11-25T12:00:00Z", "drops": ["table a"]}
# Whoever asks the cluster for anything fails.
NOBODY = PersonClient(None, namespace="team")  # type: ignore[arg-type]


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def request(**changes: Any) -> SubmitOptions:
    return SubmitOptions(**{"tenant": "acme", "reason": "CHG-2", "name": "drop", **changes})


@pytest.mark.parametrize(
    ("changes", "content", "says"),
    [
        ({"valid_for": "0s"}, SQL, "--valid-for 0s"),
        ({"lock_timeout": "x"}, SQL, "--lock-timeout x"),
        ({"statement_timeout": "x"}, SQL, "--statement-timeout x"),
        ({"timeout": "x"}, SQL, "--timeout x"),
        ({"reason": " "}, SQL, "--reason"),
        ({"name": "No Name"}, SQL, "--name No Name"),
        ({}, "", "--sql: is empty"),
    ],
)
def test_what_is_wrong_by_itself_is_told_before_anybody_is_asked(changes: Raw, content: str, says: str) -> None:
    with pytest.raises(Misused, match=says):
        run(prepare(NOBODY, request(**changes), "--sql", content.encode()))


def test_a_text_that_cannot_be_approved_is_refused_with_its_place() -> None:
    with pytest.raises(Unfit) as unfit:
        run(prepare(NOBODY, request(), "-f x.sql", b"DROP TABLE a;\nDROP TABEL b"))
    assert unfit.value.refusal.message.startswith("-f x.sql: line 2, column 6")
    assert (unfit.value.refusal.line, unfit.value.refusal.caret) == ("DROP TABEL b", "     ^")


def decision(**changes: Any) -> DecisionOptions:
    return DecisionOptions(**{"name": "drop", "verdict": Verdict.APPROVED, **changes})


def shown(statement: Raw, **changes: Any) -> ShownApproval:
    status = {"phase": "Pending", "sha256": SHA, "statements": [statement], "rehearsal": REHEARSAL}
    return ShownApproval(approval(status=status), decision(**changes), "boss")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (decision(sha256="abc"), "--sha256 abc: give its first 8"),
        (decision(message="x" * 1025), "--message: has 1025 characters"),
        (decision(verdict=Verdict.DENIED, message=" "), "--message: say why"),
    ],
)
def test_a_decision_that_is_wrong_by_itself_is_told_before_anybody_is_asked(
    options: DecisionOptions, says: str
) -> None:
    with pytest.raises(Misused, match=says):
        run(show_for_decision(NOBODY, options))


def test_nothing_but_the_beginning_of_the_sha256_is_consent() -> None:
    approval_shown = shown(STATEMENT)
    approval_shown.check_typed(f" {SHA[:8].upper()}\n")
    for typed in ("", "yes", SHA[:7], SHA):
        with pytest.raises(Refused, match="nothing was decided"):
            approval_shown.check_typed(typed)


def test_a_text_that_is_cut_short_is_shown_in_full_to_who_approves_it() -> None:
    cut = {**STATEMENT, "sql": "x" * 1024}
    assert shown(cut).needs_full_text
    assert not shown(STATEMENT).needs_full_text
    assert not shown(cut, verdict=Verdict.DENIED, message="no").needs_full_text
