"""Sessions of which PostgreSQL logged nothing: found when the log is read, told once, never by mistake."""

from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND

from vaultbrix.api.conditions import Reason
from vaultbrix.audit.shipping.unheard import TOLD_SECONDS, UNHEARD_SECONDS, Unheard, gap
from vaultbrix.grants.sessions import (
    KEPT,
    MOST_SESSIONS,
    SeenSession,
    read_sessions,
    remember,
    session_id,
    write_sessions,
)


def seen(number: int, started: timedelta = MINUTE) -> SeenSession:
    return SeenSession(
        id=f"6560f.{number:x}", role="tenant_acme", address="203.0.113.7", started_at=NOW - started, seen_at=NOW
    )


@pytest.fixture
def unheard() -> Unheard:
    found = Unheard()
    found.resume(NOW - HOUR)
    return found


def test_a_session_is_due_once_its_lines_had_the_time_to_come(unheard: Unheard) -> None:
    unheard.note([seen(1)], NOW, 100.0)
    unheard.note([seen(1), seen(2)], NOW, 110.0)
    assert unheard.due(100.0 + UNHEARD_SECONDS - 1) == []
    assert unheard.due(100.0 + UNHEARD_SECONDS) == [seen(1)]
    assert unheard.due(110.0 + UNHEARD_SECONDS) == [seen(1), seen(2)]


def test_what_is_decided_is_not_asked_again_while_the_agent_names_it(unheard: Unheard) -> None:
    unheard.note([seen(1), seen(2)], NOW, 0.0)
    due = unheard.due(UNHEARD_SECONDS)
    unheard.settle(due, {seen(2).id}, UNHEARD_SECONDS)
    unheard.note([seen(1), seen(2)], NOW, 200.0)
    assert unheard.due(1000.0) == []


def test_it_is_told_for_a_while_with_role_and_address(unheard: Unheard) -> None:
    unheard.note([seen(1), seen(2)], NOW, 0.0)
    assert unheard.problems(0.0) == ()
    unheard.settle([seen(1), seen(2)], {seen(1).id, seen(2).id}, 50.0)
    (problem,) = unheard.problems(50.0 + TOLD_SECONDS - 1)
    assert problem.reason is Reason.SESSIONS_UNRECORDED
    for part in ("6560f.2", "tenant_acme", "203.0.113.7", "(and 1 more)", "log_connections"):
        assert part in problem.message
    assert unheard.problems(50.0 + TOLD_SECONDS) == ()
    for part in ("6560f.1", "tenant_acme", "203.0.113.7", "2026-12-01T11:59:00Z"):
        assert part in gap(seen(1)).reason


def test_sessions_from_before_the_record_began_and_old_ones_are_passed_over(unheard: Unheard) -> None:
    unheard.note([seen(1, 2 * HOUR)], NOW, 0.0)
    unheard.resume(NOW - 100 * HOUR)
    unheard.note([seen(2, 25 * HOUR), seen(3, 23 * HOUR)], NOW, 0.0)
    assert [session.id for session in unheard.due(100.0)] == [seen(3).id]


def test_a_session_that_is_gone_is_still_looked_for(unheard: Unheard) -> None:
    unheard.note([seen(1)], NOW, 0.0)
    unheard.note([], NOW, 10.0)
    assert unheard.due(100.0) == [seen(1)]


def test_the_agent_remembers_sessions_that_ended_for_a_while_and_not_too_many() -> None:
    later = NOW + KEPT - SECOND
    assert remember([seen(1)], [seen(2)], later) == [seen(1), seen(2)]
    assert remember([seen(1)], [], NOW + KEPT) == []
    many = [seen(number) for number in range(1, MOST_SESSIONS + 10)]
    assert len(remember(many, [seen(0xFFFF)], NOW)) == MOST_SESSIONS


def test_what_one_writes_the_other_reads_and_nothing_of_another_server(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    assert read_sessions(path, "main") == []
    write_sessions(path, "main", [seen(1)])
    assert read_sessions(path, "main") == [seen(1)]
    assert read_sessions(path, "other") == []
    assert path.stat().st_mode & 0o777 == 0o640
    assert session_id(0x6560F, 0x1F) == "6560f.1f"
