"""``vaultbrix ddl`` shows what is in the status, and lets nobody decide on anything else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command_line import Person
from tests.harness.ddl_command_line import (
    DROP,
    FAILED,
    NOW,
    REHEARSAL,
    SHA,
    SORTING,
    STATEMENT,
    approval_with_status,
    decision,
    report,
)
from tests.harness.kube_http import Object
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.world import World


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        ({"phase": "Failed", "error": {"sqlstate": "55P03", "message": "lock", "statement": 1}}, 3, "--lock-timeout"),
        ({"phase": "Denied"}, 4, "Denied"),
        ({"phase": "Expired"}, 5, "submit it again"),
        ({"phase": "Invalid", "sha256": None}, 6, "correct it"),
        ({"phase": "Running", "progress": SORTING}, 7, "not settled after 1s: runs (Running: why)"),
        ({"phase": None, "sha256": None}, 7, "is the operator running?"),
    ],
    ids=lambda value: str(value.get("phase")) if isinstance(value, dict) else "",
)
def test_wait_says_by_its_exit_code_how_it_ended(alone: World, status: Object, code: int, says: str) -> None:
    team = alone.team()
    jane = Person.admin(alone, team)
    ready = {
        "type": "Ready", "status": "False", "reason": status["phase"], "message": "why", "lastTransitionTime": NOW,
    }  # fmt: skip
    approval_with_status(alone, team, "drop", conditions=[ready] if status["phase"] else [], **status)
    done = jane.types("ddl", "wait", "drop", "--timeout", "1s")
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert done.stderr.startswith("error: drop: ")
    if "progress" in status:
        assert "drop: Running: statement 2 of 3, sorting, 40 %" in done.stdout


def test_waiting_survives_an_api_server_that_is_away_and_ends_with_the_object(alone: World, tmp_path: Path) -> None:
    team = alone.team()
    jane = Person.admin(alone, team)
    approval_with_status(alone, team, "drop", phase="Running")
    waiting = Process(jane.command("ddl", "wait", "drop"), tmp_path / "wait.log", env=jane.environment)
    waiting.start()
    wait_for("it waits", lambda: "Running" in waiting.text())
    alone.api.pause()
    alone.api.resume()
    report(alone, team, "drop", phase="Succeeded")
    wait_for("it has ended", lambda: not waiting.running, tell=waiting.text)
    assert waiting.stop() == 0, waiting.text()
    approval_with_status(alone, team, "gone")
    waiting = Process(jane.command("ddl", "wait", "gone"), tmp_path / "gone.log", env=jane.environment)
    waiting.start()
    wait_for("it waits", lambda: "Pending" in waiting.text())
    alone.api.delete("ddl", "gone", team)
    wait_for("it has ended", lambda: not waiting.running, tell=waiting.text)
    assert (waiting.stop(), "was deleted meanwhile" in waiting.text()) == (1, True)


def test_what_would_go_is_listed_with_its_size(alone: World) -> None:
    team = alone.team()
    approval_with_status(alone, team, "drop", rehearsal=REHEARSAL)
    said = Person.admin(alone, team).succeeds("ddl", "show", "drop")
    assert re.search(r"1 +DROP TABLE +orders +Table +AccessExclusiveLock +gated", said)
    for line in (
        f"Rehearsed at {NOW} in 12 ms, and rolled back",
        "  - table tenant_acme.orders  (about 12,345 rows, 3.0 MiB)",
        "  - view tenant_acme.report",
        "  ~ tenant_acme.items  (rows not counted, 8 KiB), rewritten",
        "    ShareRowExclusiveLock on tenant_acme.items",
    ):
        assert line in said.splitlines()
    assert "\x1b" not in said, "no colours in a pipe"
    screen = Person.admin(alone, team).terminal("ddl", "show", "drop")
    assert screen.ends() == 0
    assert re.search(r"\x1b\[31m +- table tenant_acme\.orders", screen.text)
    assert "\x1b[1;31mTable" in screen.text


def test_a_failed_rehearsal_is_approved_on_purpose_only(alone: World) -> None:
    team = alone.team()
    boss = Person.admin(alone, team)
    approval_with_status(alone, team, "drop", rehearsal=FAILED)
    said = boss.fails("ddl", "approve", "drop", "--yes")
    assert "statement 1: 2BP01 others depend on it" in said
    assert "--despite-rehearsal" in said
    assert decision(alone, team, "drop") == {}
    boss.succeeds("ddl", "approve", "drop", "--yes", "--despite-rehearsal", "--allow-nested")
    assert decision(alone, team, "drop")["allowNested"] is True


def test_who_approves_what_functions_and_blocks_do_is_warned_unless_that_is_allowed(alone: World) -> None:
    team = alone.team()
    boss = Person.admin(alone, team)
    for name in ("plain", "allowed", "denied"):
        approval_with_status(alone, team, name, rehearsal={**REHEARSAL, "nested": True})
    warned = boss.types("ddl", "approve", "plain", "--yes")
    assert warned.returncode == 0
    assert "warning: functions, DO blocks or triggers of it drop or alter" in warned.stderr
    assert "--allow-nested" in warned.stderr
    assert boss.types("ddl", "approve", "allowed", "--yes", "--allow-nested").stderr == ""
    assert boss.types("ddl", "deny", "denied", "--yes", "--message", "no").stderr == ""


def test_a_failure_is_shown_at_its_statement_and_line(alone: World) -> None:
    team = alone.team()
    error = {"sqlstate": "42P01", "message": "no table", "statement": 2, "line": 7}
    approval_with_status(alone, team, "drop", phase="Failed", error=error)
    assert "Failed: statement 2, line 7: 42P01 no table" in Person.admin(alone, team).succeeds("ddl", "show", "drop")


def test_a_status_that_is_not_of_the_text_is_not_approved(alone: World) -> None:
    team = alone.team()
    boss = Person.admin(alone, team)
    approval_with_status(alone, team, "drop", sha256="0" * 64)
    assert "statements above are not those of the text" in boss.succeeds("ddl", "show", "drop")
    assert "somebody else than the operator wrote it" in boss.fails("ddl", "approve", "drop", "--sha256", "0" * 8)
    assert decision(alone, team, "drop") == {}


def test_a_status_that_says_less_than_the_text_is_contradicted(alone: World) -> None:
    team = alone.team()
    approval_with_status(alone, team, "drop", sql=f"{DROP}; DROP TABLE customers")
    said = Person.admin(alone, team).succeeds("ddl", "show", "drop")
    assert "! read here, statement 2 is: DROP TABLE customers" in said


@pytest.mark.parametrize("typed", [SHA[:7], "yes", ""])
def test_at_a_terminal_nothing_but_the_sha256_is_consent(alone: World, typed: str) -> None:
    team = alone.team()
    approval_with_status(alone, team, "drop", rehearsal=REHEARSAL)
    screen = Person.admin(alone, team).terminal("ddl", "approve", "drop")
    screen.awaits("characters of its sha256:")
    assert "table tenant_acme.orders" in screen.text
    screen.types(typed)
    assert screen.ends() == 1
    assert "nothing was decided" in screen.text
    assert decision(alone, team, "drop") == {}


def test_at_a_terminal_the_sha256_decides_whatever_of_no_matter_changed(alone: World) -> None:
    team = alone.team()
    approval_with_status(alone, team, "drop")
    screen = Person.admin(alone, team).terminal("ddl", "approve", "drop")
    screen.awaits("characters of its sha256:")
    alone.api.kubectl("-n", team, "label", "ddl", "drop", "a=b")
    screen.types(SHA[:8])
    assert screen.ends() == 0, screen.text
    assert decision(alone, team, "drop")["verdict"] == "Approved"


def change_rehearsal(world: World, team: str) -> None:
    report(world, team, "drop", rehearsal={**REHEARSAL, "drops": ["table tenant_acme.orders", "table tenant_acme.all"]})


def put_another_in_its_place(world: World, team: str) -> None:
    world.api.delete("ddl", "drop", team)
    approval_with_status(world, team, "drop", rehearsal=REHEARSAL)


def decide_by_another(world: World, team: str) -> None:
    world.api.patch("ddl", "drop", team, {"spec": {"decision": {"verdict": "Denied", "by": "pat", "sha256": SHA}}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (change_rehearsal, "not as it was shown any more"),
        (put_another_in_its_place, "was deleted meanwhile"),
        (decide_by_another, "was decided: Denied by pat"),
    ],
)
def test_what_changed_since_it_was_shown_is_not_approved(alone: World, change: Any, says: str) -> None:
    team = alone.team()
    approval_with_status(alone, team, "drop", rehearsal=REHEARSAL)
    screen = Person.admin(alone, team).terminal("ddl", "approve", "drop")
    screen.awaits("characters of its sha256:")
    change(alone, team)
    screen.types(SHA[:8])
    assert screen.ends() == 1
    assert says in screen.text
    assert decision(alone, team, "drop").get("verdict") != "Approved"


EVIL = "\x1b[2J[bold red]a[/]\u202e :smile:\r\nerror: fake\u3164\u200b\x9b"


def test_nothing_that_a_tenant_wrote_paints_hides_or_begins_a_line(alone: World) -> None:
    team = alone.team()
    evil = EVIL
    statement = {**STATEMENT, "sql": evil, "tag": evil[:60], "objects": [evil], "notes": [evil], "lock": "x"}
    rehearsal = {
        **REHEARSAL, "drops": [evil], "affected": [{"object": evil, "rows": 1, "bytes": 1}],
        "locks": [{"object": evil, "mode": evil[:60]}], "message": evil,
    }  # fmt: skip
    ready = {"type": "Ready", "status": "False", "reason": "Some", "message": evil, "lastTransitionTime": NOW}
    approval_with_status(
        alone, team, "evil", sql=f"DROP TABLE {evil}", statements=[statement], rehearsal=rehearsal, conditions=[ready],
        phase="Failed", error={"sqlstate": "XX000", "message": evil, "statement": 1}, startedAt=NOW,
        spec={"reason": "[bold red]a[/] :smile: \u202e", "decision": {
            "verdict": "Approved", "by": "[red]b", "sha256": SHA, "message": evil}},
    )  # fmt: skip
    jane = Person.admin(alone, team)
    for command in (["show", "evil"], ["show", "evil", "--sql"], ["list"], ["show", "evil", "-o", "yaml"],
                    ["list", "-o", "json"], ["wait", "evil"], ["approve", "evil", "--yes"]):  # fmt: skip
        done = jane.types("ddl", *command)
        said = done.stdout + done.stderr
        assert all(c.isprintable() or c == "\n" for c in said), command
        assert "\u3164" not in said
        assert "[bold red]a[/]" in said
        assert ":smile:" in said
        assert not any(line.startswith("error: fake") for line in said.splitlines())
    said = jane.succeeds("ddl", "show", "evil", "--sql")
    assert "    1 | DROP TABLE <U+001B>[2J[bold red]a[/]<U+202E> :smile:\n    2 | error: fake<U+3164><U+200B>" in said


def test_what_waits_for_a_decision_is_listed_first(alone: World) -> None:
    team, other = alone.team(), alone.team()
    approval_with_status(alone, team, "done", phase="Succeeded", finishedAt=NOW)
    approval_with_status(
        alone, team, "waits", statements=[{**STATEMENT, "danger": "Index"}, {**STATEMENT, "position": 2}]
    )
    approval_with_status(alone, team, "runs", phase="Running")
    approval_with_status(alone, other, "theirs")
    jane = Person.admin(alone, team)
    lines = jane.succeeds("ddl", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "waits", "runs", "done"]
    assert re.match(r"waits +acme +Pending +Table +2 +jane@example.com +\d+s +tests$", lines[1].strip())
    assert [line.split()[0] for line in jane.succeeds("ddl", "list", "--pending").splitlines()[1:]] == ["waits"]
    assert re.search(rf"{other} +theirs", jane.succeeds("ddl", "list", "-A", "--pending"))
    assert "no DDLApproval of Tenant beta" in jane.succeeds("ddl", "list", "--tenant", "beta")
    found = json.loads(jane.succeeds("ddl", "list", "-o", "json"))
    assert [item["metadata"]["name"] for item in found["items"]] == ["waits", "runs", "done"]
    assert (found["kind"], found["items"][0]["kind"]) == ("List", "DDLApproval")
    assert json.loads(jane.succeeds("ddl", "show", "waits", "-o", "json"))["spec"]["sql"] == DROP
