"""Whom the one-time logins of an approval stand for, and who let them."""

from typing import Any

import pytest
from tests.harness.builders import NOW, approval, tenant

from vaultbrix.agent.decisions import attribute_logins
from vaultbrix.ddl.decisions import login_name, rehearsal_login
from vaultbrix.grants.state import AgentState, applied

UID = "6f1b2c3d-0000-4000-8000-000000000001"


@pytest.mark.parametrize(("verdict", "approver"), [(None, ""), ("Approved", "pat@example.com"), ("Denied", "")])
def test_a_job_is_approved_by_who_approved_it_and_a_rehearsal_by_nobody(verdict: str | None, approver: str) -> None:
    decision: dict[str, Any] = {"verdict": verdict, "by": "pat@example.com", "sha256": "a" * 64}
    made = approval(metadata={"uid": UID}, **({"decision": decision} if verdict else {}))
    state = AgentState("main")
    applied(state, attribute_logins(state, made, tenant(), NOW, gone=False))
    job, rehearsal = state.attribute(login_name(UID), None, NOW), state.attribute(rehearsal_login(UID), None, NOW)
    assert (job.person, job.approver, job.authorization) == ("jane@example.com", approver, "team/drop")
    assert (rehearsal.person, rehearsal.approver) == ("jane@example.com", "")
    assert state.approval_of(UID) == "team/drop"
    assert state.approval_of("7" + UID[1:]) == ""
