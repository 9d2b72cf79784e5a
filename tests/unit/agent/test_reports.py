from typing import Any

import pytest
from tests.harness.builders import HOUR, NOW, SECOND, grant, rule

from vaultbrix.agent.reports import RuleFacts, field_manager, report
from vaultbrix.agent.watchdog.tally import RuleEnds
from vaultbrix.api.accessrule import AccessRule

GRANT = grant("203.0.113.7/32", uid="uid-jane")


def reported(rule_: AccessRule, *, is_open: bool = True, errors: dict[str, str] | None = None, after: int = 0) -> Any:
    facts = RuleFacts(GRANT if is_open else None, errors or {})
    return report(rule_, facts, agent="node-1", now=NOW + after * SECOND)


def written(status: Any, found: AccessRule | None = None) -> AccessRule:
    """The rule as it is once the report was applied."""
    base = found or rule()
    return AccessRule.parse({**base.dump(), "status": {**base.status.dump(), **status}})


def condition(status: Any) -> dict[str, Any]:
    (found,) = status["conditions"]
    assert isinstance(found, dict)
    return found


def test_an_enforced_rule_is_reported_with_each_layer() -> None:
    status = reported(rule())
    assert status["agents"] == [
        {
            "name": "node-1",
            "generation": 1,
            "hba": True,
            "kernel": True,
            "sessions": True,
            "openSessions": 0,
            "terminatedSessions": 0,
            "endedByWatchdog": 0,
            "watchdog": "",
            "at": "2026-12-01T12:00:00Z",
            "error": "",
        }
    ]
    assert condition(status) | {"message": ""} == {
        "type": "Enforced",
        "status": "True",
        "reason": "Enforced",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-12-01T12:00:00Z",
    }


def test_what_was_said_already_is_not_said_again_however_late_it_is() -> None:
    assert reported(written(reported(rule())), after=3600) is None
    failing = written(reported(rule(), errors={"hba": "line 3"}))
    assert reported(failing, errors={"hba": "line 3"}, after=3600) is None
    closed = written(reported(written(reported(rule())), is_open=False))
    assert reported(closed, is_open=False, after=3600) is None


def test_a_rule_that_was_never_open_here_is_not_reported() -> None:
    assert reported(rule(), is_open=False) is None


def test_a_rule_that_is_held_back_says_why() -> None:
    status = reported(rule(), is_open=False, errors={"clock": "the clock differs"})
    found = condition(status)
    assert (found["status"], found["reason"], found["message"]) == ("False", "ClockSkew", "clock: the clock differs")
    assert (status["agents"][0]["hba"], status["agents"][0]["kernel"]) == (False, False)


def test_sessions_that_were_ended_are_counted_once() -> None:
    ended = report(rule(), RuleFacts(GRANT, terminated_sessions=2), agent="node-1", now=NOW)
    later = report(written(ended), RuleFacts(None), agent="node-1", now=NOW + SECOND)
    assert later is not None
    assert later["agents"][0]["terminatedSessions"] == 2


@pytest.mark.parametrize(
    ("layer", "hba", "kernel", "reason"),
    [
        ("hba", False, True, "HbaFailed"),
        ("kernel", True, False, "KernelFailed"),
        ("sessions", True, True, "SessionsFailed"),
    ],
)
def test_a_broken_layer_is_named_and_the_others_are_not_blamed(
    layer: str, hba: bool, kernel: bool, reason: str
) -> None:
    status = reported(rule(), errors={layer: "it broke"})
    (entry,) = status["agents"]
    assert (entry["hba"], entry["kernel"], entry["error"]) == (hba, kernel, f"{layer}: it broke")
    found = condition(status)
    assert (found["status"], found["reason"], found["message"]) == ("False", reason, f"{layer}: it broke")


def test_a_closed_rule_is_reported_closed_in_every_layer() -> None:
    status = reported(written(reported(rule())), is_open=False, after=60)
    (entry,) = status["agents"]
    assert (entry["hba"], entry["kernel"]) == (False, False)
    found = condition(status)
    assert (found["status"], found["reason"], found["lastTransitionTime"]) == (
        "False",
        "Closed",
        "2026-12-01T12:01:00Z",
    )


def test_a_rule_that_could_not_be_closed_is_not_reported_closed() -> None:
    found = condition(reported(written(reported(rule())), is_open=False, errors={"kernel": "it broke"}))
    assert (found["status"], found["reason"]) == ("False", "KernelFailed")


def test_the_generation_reported_is_the_one_acted_on() -> None:
    newer = rule(metadata={"generation": 7})
    assert reported(newer)["agents"][0]["generation"] == GRANT.generation == 1


def test_another_error_is_reported_without_moving_the_transition_time() -> None:
    failing = written(reported(rule(), errors={"hba": "line 3"}))
    found = condition(reported(failing, errors={"hba": "line 4"}, after=60))
    assert (found["message"], found["lastTransitionTime"]) == ("hba: line 4", "2026-12-01T12:00:00Z")


def test_another_agents_entry_says_nothing_about_ours() -> None:
    other = written(report(rule(), RuleFacts(GRANT), agent="node-2", now=NOW - HOUR))
    status = reported(other)
    assert [a["name"] for a in status["agents"]] == ["node-1"]
    assert reported(other, is_open=False) is None


def test_an_error_of_any_length_fits_the_api() -> None:
    status = reported(rule(), errors={"hba": "x" * 100_000})
    assert len(status["agents"][0]["error"]) <= 1024
    assert len(condition(status)["message"]) <= 32768
    assert reported(written(status), errors={"hba": "x" * 100_000}) is None


def test_what_the_watchdog_ended_is_reported_and_survives_a_restart_of_the_agent() -> None:
    first = report(
        rule(), RuleFacts(GRANT, watchdog=RuleEnds(2, "200,000 locks (limit 10,000)")), agent="node-1", now=NOW
    )
    assert first is not None
    assert (first["agents"][0]["endedByWatchdog"], first["agents"][0]["watchdog"]) == (
        2,
        "200,000 locks (limit 10,000)",
    )
    again = report(written(first), RuleFacts(GRANT, open_sessions=1), agent="node-1", now=NOW)
    assert again is not None
    assert again["agents"][0] | {"openSessions": 0} == first["agents"][0]


def test_each_agent_owns_its_reports_by_a_name_that_the_api_server_takes() -> None:
    assert field_manager("node-1") == "vaultbrix-agent-node-1"
    assert field_manager("node-1") != field_manager("node-2")
    assert len(field_manager("n" * 253)) == 128
