"""What Flux and others that go by kstatus make of every kind: nothing is in progress that only a change ends."""

from datetime import timedelta
from typing import Any

import pytest
from tests.harness.builders import HOUR, MINUTE, NOW, Raw, api_key, approval, rule, server, tenant, true
from tests.harness.kstatus import CURRENT, FAILED, IN_PROGRESS, TERMINATING, kstatus

from vaultbrix.access.decisions import RuleFacts, rule_status
from vaultbrix.access.decisions import decide as decide_rule
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.apikey import APIKey
from vaultbrix.api.conditions import LASTING, Reason, State, failed_states, find_condition, ready_states
from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval
from vaultbrix.api.kinds import KINDS
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.decisions import KeyFacts, NewKey, key_status
from vaultbrix.dataapi.decisions import decide as decide_key
from vaultbrix.ddl.decisions import (
    ApprovalVerdict,
    RunState,
    approval_status,
    blocked_status,
    decide,
    ended_status,
    invalid_status,
)
from vaultbrix.ddl.plan import RejectedText, plan
from vaultbrix.runtime.errors import Blocked, Expected, Transient
from vaultbrix.servers.decisions import GateReport, ServerFacts, ServerView, server_status
from vaultbrix.tenants.decisions import status as tenant_status

AWAY = Transient(Reason.UNREACHABLE, "PostgreSQL cannot be reached")
ENFORCED = {"conditions": [{**true("Enforced")[0], "observedGeneration": 1}]}
APPROVING = server(accessApproval="Required")
FULL = server(limits={"maxRulesPerTenant": 1})


def health(resource: Any, status: Any) -> str:
    return kstatus(resource.model_copy(update={"status": status}).dump())


def test_an_object_that_nobody_has_looked_at_is_in_progress() -> None:
    fresh = [server(), tenant(ready=False), rule(), approval(), api_key()]
    assert {type(one) for one in fresh} == set(KINDS)
    for one in fresh:
        assert kstatus({**one.dump(), "status": {"observedGeneration": -1}}) == IN_PROGRESS


def of_rule(one: AccessRule, of: PostgresServer, owner: Tenant | None, after: timedelta, **facts: Any) -> str:
    verdict = decide_rule(one, owner, of, NOW + after)
    known = {"in_cluster": True, "covered": True, **facts}
    return health(one, rule_status(one, RuleFacts(verdict, **known), NOW + after))


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (rule(status=ENFORCED), CURRENT),
        (rule(), IN_PROGRESS),
        (rule(startsAt="2026-12-01T13:00:00Z"), IN_PROGRESS),
        (rule(ttl="1s", status=ENFORCED), CURRENT),
        (rule(revoked=True, status=ENFORCED), CURRENT),
        (rule(ttl=None, expiresAt="2026-11-30T12:00:00Z"), CURRENT),
        (rule(cidrs=["10.0.0.0/8"]), FAILED),
        (rule(ttl="2000h"), FAILED),
    ],
    ids=["open", "agent pending", "before its start", "ended", "revoked", "created late", "too wide", "too long"],
)
def test_a_rule_that_ended_is_current_and_one_that_was_refused_has_failed(one: AccessRule, expected: str) -> None:
    assert of_rule(one, server(), tenant(), MINUTE) == expected


def test_a_rule_whose_tenant_is_on_its_way_is_in_progress_and_one_that_is_suspended_is_not() -> None:
    assert of_rule(rule(), server(), None, MINUTE) == IN_PROGRESS
    assert of_rule(rule(), server(), tenant(ready=False), MINUTE) == IN_PROGRESS
    assert of_rule(rule(), server(), tenant(suspended=True), MINUTE) == FAILED
    assert of_rule(rule(status=ENFORCED), server(), tenant(), MINUTE, covered=False) == IN_PROGRESS


def test_the_login_of_a_rule_is_tried_again_unless_another_has_its_name() -> None:
    own = rule(login="PerRule", status=ENFORCED)
    assert of_rule(own, server(), tenant(), MINUTE, login_failure=AWAY) == IN_PROGRESS
    assert of_rule(own, server(), tenant(), MINUTE, login_failure=Blocked(Reason.LOGIN_TAKEN, "taken")) == FAILED


def test_a_rule_waits_for_a_decision_as_failed_and_stays_so_when_nobody_decides() -> None:
    assert of_rule(rule(), APPROVING, tenant(), MINUTE) == FAILED
    assert of_rule(rule(ttl="1h"), APPROVING, tenant(), 2 * HOUR) == FAILED
    shown = rule_status(
        rule(), RuleFacts(decide_rule(rule(), tenant(), APPROVING, NOW), in_cluster=True, covered=True), NOW
    )
    denied = {"verdict": "Denied", "by": "bob@example.com", "sha256": shown.sha256}
    assert of_rule(rule(decision=denied, status=shown.dump()), APPROVING, tenant(), MINUTE) == FAILED


def of_tenant(one: Tenant, failure: Expected | None) -> str:
    return health(one, tenant_status(one, None, failure, NOW, secret_written=failure is None))


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (None, CURRENT),
        (AWAY, IN_PROGRESS),
        (Blocked(Reason.SERVER_NOT_FOUND, "no PostgresServer main"), IN_PROGRESS),
        (Blocked(Reason.SERVER_NOT_READY, "not ready"), IN_PROGRESS),
        (Blocked(Reason.SLUG_TAKEN, "another's"), FAILED),
        (Blocked(Reason.SECRET_TAKEN, "exists"), FAILED),
        (Blocked(Reason.NAMESPACE_NOT_ALLOWED, "not here"), FAILED),
        (Blocked(Reason.TOO_MANY_TENANTS, "full"), FAILED),
        (Blocked(Reason.DATA_RETAINED, "adopt it"), FAILED),
        (Blocked(Reason.FORBIDDEN, "secrets is forbidden"), FAILED),
    ],
    ids=lambda value: value.reason if isinstance(value, Expected) else str(value),
)
def test_a_tenant_is_in_progress_only_while_it_may_come_by_itself(failure: Expected | None, expected: str) -> None:
    assert of_tenant(tenant(ready=False), failure) == expected
    assert of_tenant(tenant(), failure) == expected


def test_a_suspended_tenant_lasts_until_somebody_changes_it() -> None:
    assert of_tenant(tenant(suspended=True), None) == FAILED


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (None, CURRENT),
        (AWAY, IN_PROGRESS),
        (Blocked(Reason.SECRET_NOT_FOUND, "no Secret"), IN_PROGRESS),
        (Blocked(Reason.SECRET_INVALID, "no key"), FAILED),
        (Blocked(Reason.SECRET_NOT_FOR_SERVER, "no label"), FAILED),
        (Blocked(Reason.AUTHENTICATION_FAILED, "password"), FAILED),
        (Blocked(Reason.UNSUPPORTED_VERSION, "14"), FAILED),
        (Blocked(Reason.INSUFFICIENT_PRIVILEGE, "no superuser"), FAILED),
    ],
    ids=lambda value: value.reason if isinstance(value, Expected) else str(value),
)
def test_a_server_is_in_progress_only_while_it_may_come_by_itself(failure: Expected | None, expected: str) -> None:
    gate = GateReport(ServerFacts("17.6", "7", 17, "17.1"), 6, []) if failure is None else None
    view = ServerView(agents={}, audit_flowing=None, anchor=None, gate=gate, failure=failure)
    assert health(server(), server_status(server(), view, NOW)) == expected


def of_key(one: APIKey, owner: Tenant | None = None, failure: Expected | None = None, *, made: bool = True) -> str:
    new_key = NewKey("0" * 64, "vbx_secret_000000000") if made else None
    verdict = decide_key(one, owner, NOW + MINUTE)
    return health(one, key_status(one, KeyFacts(verdict, new_key, failure), NOW + MINUTE))


def test_a_key_that_ended_is_current_and_one_that_cannot_be_made_has_failed() -> None:
    assert of_key(api_key(), tenant()) == CURRENT
    assert of_key(api_key(ttl="1s"), tenant()) == CURRENT
    assert of_key(api_key(revoked=True), tenant()) == CURRENT
    assert of_key(api_key(), None, made=False) == IN_PROGRESS
    assert of_key(api_key(), tenant(ready=False), made=False) == IN_PROGRESS
    assert of_key(api_key(), tenant(), AWAY, made=False) == IN_PROGRESS
    assert of_key(api_key(), tenant(suspended=True), made=False) == FAILED
    assert of_key(api_key(), tenant(), Blocked(Reason.SECRET_TAKEN, "exists"), made=False) == FAILED


PLAN = plan("DROP TABLE a")
WAITS = State(None, Reason.WAITING, "waits for its rehearsal")


def of_approval(one: DDLApproval, verdict: ApprovalVerdict, run: RunState | None = None) -> str:
    return health(one, approval_status(one, PLAN, verdict, run or RunState(), None, WAITS, NOW))


def decided(verdict: str = "Approved", by: str = "pat@example.com", status: Raw | None = None) -> DDLApproval:
    shown = {"sha256": PLAN.sha256, **(status or {})}
    return approval(decision={"verdict": verdict, "by": by, "sha256": PLAN.sha256}, status=shown)


@pytest.mark.parametrize(
    ("one", "run", "phase", "expected"),
    [
        (approval(), {}, "Pending", FAILED),
        (decided(), {}, "Approved", IN_PROGRESS),
        (decided(), {"job_exists": True}, "Running", IN_PROGRESS),
        (decided(), {"ledger": True}, "Succeeded", CURRENT),
        (decided(), {"job_failed": True}, "Failed", FAILED),
        (decided(), {"orphaned": True}, "Failed", FAILED),
        (decided("Denied"), {}, "Denied", FAILED),
        (decided(by="jane@example.com"), {}, "Denied", FAILED),
        (decided(status={"expiresAt": "2026-12-01T11:00:00Z"}), {}, "Expired", FAILED),
    ],
    ids=["undecided", "approved", "running", "ran", "failed", "tenant gone", "denied", "by who asked", "expired"],
)
def test_an_approval_is_in_progress_only_while_it_is_taken_to_its_end(
    one: DDLApproval, run: Raw, phase: str, expected: str
) -> None:
    state = RunState(**run)
    verdict = decide(one, PLAN.sha256, state, NOW)
    assert (verdict.phase, of_approval(one, verdict, state)) == (phase, expected)


def test_an_approval_whose_text_is_none_has_failed() -> None:
    with pytest.raises(RejectedText) as rejected:
        plan("DROP TABEL a")
    assert health(approval(), invalid_status(approval(), rejected.value, NOW)) == FAILED


def test_an_approval_that_something_stands_in_the_way_of_fails_if_only_a_change_ends_that() -> None:
    def blocked(reason: Reason) -> str:
        return health(decided(), blocked_status(decided(), PLAN, Blocked(reason, "why"), NOW))

    assert blocked(Reason.TENANT_NOT_READY) == IN_PROGRESS
    assert blocked(Reason.TENANT_SUSPENDED) == FAILED


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Denied", "Expired", "Invalid"])
def test_an_approval_that_ended_long_ago_gets_the_same_health(phase: str) -> None:
    """Of an operator that knew no Stalled; something was written to the object since."""
    ready = {**true("Ready")[0], "status": "True" if phase == "Succeeded" else "False", "reason": "SelfApproval"}
    old = approval(metadata={"generation": 2}, status={"phase": phase, "observedGeneration": 1, "conditions": [ready]})
    assert kstatus(old.dump()) == IN_PROGRESS
    status = ended_status(old, NOW)
    assert health(old, status) == (CURRENT if phase == "Succeeded" else FAILED)
    again = ended_status(old.model_copy(update={"status": status}), NOW + HOUR)
    assert again == status
    assert find_condition(status.conditions, "Ready") == find_condition(old.status.conditions, "Ready")  # type: ignore[arg-type]
    assert status.phase is ApprovalPhase(phase)


def test_an_object_that_is_deleted_is_terminating_whatever_it_says() -> None:
    deleted = {"metadata": {"generation": 1, "deletionTimestamp": "2026-12-01T12:00:00Z"}, "status": {}}
    assert kstatus(deleted) == TERMINATING


def test_stalled_is_there_only_while_it_is_true_and_says_what_ready_says() -> None:
    waits, lasts = State(False, Reason.UNREACHABLE, "away"), State(False, Reason.SLUG_TAKEN, "another's")
    assert list(ready_states(State(True, Reason.READY, ""))) == list(ready_states(waits)) == ["Ready"]
    assert ready_states(lasts) == failed_states(lasts) == {"Ready": lasts, "Stalled": lasts._replace(status=True)}
    assert Reason.READY not in LASTING
