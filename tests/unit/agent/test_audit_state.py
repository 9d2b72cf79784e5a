"""What the audit record does to an agent's state: closed for a while, never for good, and remembered."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.builders import HOUR, MINUTE, NOW, grant, rule, server, tenant

from vaultbrix.agent.decisions import LogFloor, LogRoom, below_floor, close_for_audit, decide_tenant, follow_server
from vaultbrix.grants import file as grantsfile
from vaultbrix.grants.file import GrantsFile
from vaultbrix.grants.state import AgentState, AuditSeen, Ended, GrantRecord, Opened, ServerSeen, applied

KEY = ("team", "acme")
HELD = AuditSeen(complete_until=NOW, held=True)


def opened(*uids: str) -> AgentState:
    grants = [GrantRecord.of(grant("203.0.113.7/32", uid=uid), NOW) for uid in uids]
    return applied(AgentState("main"), [Opened(grant=found, at=NOW) for found in grants])


@pytest.mark.parametrize(
    ("percent", "least", "total", "bytes_"), [(10, 50, 1000, 100), (10, 200, 1000, 200), (10, 900, 1000, 500)]
)
def test_the_floor_is_the_more_of_the_two_and_at_most_half(percent: int, least: int, total: int, bytes_: int) -> None:
    floor = LogFloor(percent, least)
    assert floor.of(total) == bytes_
    assert below_floor(floor, LogRoom(bytes_ - 1, total), was_below=False)
    assert not below_floor(floor, LogRoom(bytes_, total), was_below=False)
    assert below_floor(floor, LogRoom(bytes_ * 5 // 4 - 1, total), was_below=True)
    assert not below_floor(floor, LogRoom(bytes_ * 5 // 4, total), was_below=True)


def test_all_that_is_open_is_closed_once_and_nothing_for_good() -> None:
    state = opened("a", "b", "c")
    changes = close_for_audit(state, ["b"], NOW)
    assert changes == [Ended(uid=uid, at=NOW, final=False) for uid in ("a", "c")]
    assert applied(state, changes).closed == set()


def test_a_rule_that_was_closed_for_the_record_opens_again_until_the_same_deadline() -> None:
    found, state = rule(ttl="2h"), AgentState("main")
    first, _ = decide_tenant(state, KEY, [found], tenant(), server(), NOW)
    applied(state, first)
    applied(state, close_for_audit(state, [], NOW + MINUTE))
    (again,), _ = decide_tenant(state, KEY, [found], tenant(), server(), NOW + HOUR)
    assert isinstance(again, Opened)
    assert isinstance(first[0], Opened)
    assert again.grant.deadline == first[0].grant.deadline == NOW + 2 * HOUR
    applied(state, close_for_audit(state, [], NOW + HOUR))
    after, _ = decide_tenant(state, KEY, [found], tenant(), server(), NOW + 2 * HOUR)
    assert not any(isinstance(change, Opened) for change in after)


@pytest.mark.parametrize(("required", "grace"), [(True, 10 * MINUTE), (False, None)])
def test_the_servers_policy_is_remembered_for_when_nobody_can_be_asked(required: bool, grace: timedelta | None) -> None:
    changes = follow_server(AgentState("main", audit_grace=MINUTE), server(auditRequired=required), frozenset())
    assert [c.audit_grace for c in changes if isinstance(c, ServerSeen)] == [grace]


def test_what_was_seen_of_the_record_outlives_a_restart_from_journal_and_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "grants.json"
    state, file = opened("a"), GrantsFile(path)
    file.append(state, [HELD, ServerSeen(database="postgres", trusted=(), audit_grace=MINUTE)], NOW)
    found = grantsfile.load(path, "main")
    assert (found.audit, found.audit_grace) == (HELD, MINUTE)
    file.save(found, NOW)
    again = grantsfile.load(path, "main")
    assert (again.audit, again.audit_grace) == (HELD, MINUTE)


def test_a_state_of_an_earlier_release_asks_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "grants.json"
    GrantsFile(path).save(opened("a"), NOW)
    kept = json.loads(path.read_text())
    for name in ("audit", "audit_grace"):
        del kept[name]
    path.write_text(json.dumps(kept))
    found = grantsfile.load(path, "main")
    assert set(found.grants) == {"a"}
    assert (found.audit, found.audit_grace) == (AuditSeen(), None)
