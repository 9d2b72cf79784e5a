"""``vaultbrix ddl`` as people run it: what an approver saw is what is decided, and what was decided is what runs."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.apiserver import Object
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import run, wait_for
from tests.harness.world import SYSTEM, World, approval
from tests.integration.commands import READ, Person, may

from vaultbrix.domain.ddlplan import digest

DROP = "DROP TABLE orders"
SHA = digest(DROP).hex()
STATEMENT = {
    "position": 1,
    "tag": "DROP TABLE",
    "gated": True,
    "sql": DROP,
    "objects": ["orders"],
    "danger": "Table",
    "lock": "AccessExclusiveLock",
}
NOW = "2026-11-25T12:00:00Z"
REHEARSAL = {
    "possible": True,
    "at": NOW,
    "durationMs": 12,
    "drops": ["table tenant_acme.orders", "view tenant_acme.report"],
    "affected": [
        {"object": "tenant_acme.orders", "rows": 12345, "bytes": 3 * 1024 * 1024},
        {"object": "tenant_acme.items", "rows": -1, "bytes": 8192, "rewritten": True},
    ],
    "locks": [{"object": "tenant_acme.items", "mode": "ShareRowExclusiveLock"}],
}
SORTING = {"statement": 2, "of": 3, "phase": "sorting", "percent": 40}
FAILED = {"possible": True, "at": NOW, "error": {"sqlstate": "2BP01", "message": "others depend on it", "statement": 1}}


def requester(world: World, team: str) -> Person:
    """Somebody who may ask and not decide, known to the API server by another name than the admin."""
    return Person.of(world, team, may(READ, "tenants"), may([*READ, "create"], "ddlapprovals"))


def approvals(world: World, team: str) -> list[Object]:
    items: list[Object] = json.loads(world.api.kubectl("-n", team, "get", "ddl", "-o", "json"))["items"]
    return items


def read_by_operator(world: World, team: str, name: str) -> None:
    wait_for("the operator has read it", lambda: world.api.get("ddl", name, team)["status"].get("sha256"))


def decision(world: World, team: str, name: str) -> Object:
    found: Object = world.api.get("ddl", name, team)["spec"].get("decision", {})
    return found


@pytest.fixture
def alone(world: World) -> Iterator[World]:
    """The world without the operator: what a status says is what the test writes."""
    world.operator.stop()
    yield world
    world.operator.start()


def told(world: World, team: str, name: str, *, sql: str = DROP, spec: Object | None = None, **status: Any) -> str:
    """An approval, and its status as an operator would write it."""
    world.api.apply(approval(team, name, "acme", sql, **(spec or {})))
    whole = {"observedGeneration": 1, "phase": "Pending", "sha256": digest(sql).hex(), "statements": [STATEMENT]}
    report(world, team, name, **{**whole, **status})
    return name


def report(world: World, team: str, name: str, **status: Any) -> None:
    world.api.kubectl(
        "-n", team, "patch", "ddl", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )


def run_job(world: World, uid: str) -> None:
    """What the kubelet does: the Job's Pod, with the Secret mounted."""
    wait_for("the Job is there", lambda: world.api.get("job", f"ddl-{uid}", SYSTEM))
    directory = world.directory / f"job-{uid}"
    directory.mkdir()
    for key, value in world.secret(SYSTEM, f"ddl-{uid}").items():
        (directory / key).write_text(value)
    run(*VAULTBRIX, "ddl", "run", "--directory", directory)


def test_a_change_is_asked_for_shown_approved_and_runs(world: World, tmp_path: Path) -> None:
    team = world.team()
    name = world.tenant(team)
    role = f"tenant_{name.replace('-', '_')}"
    jane, boss = requester(world, team), Person.admin(world, team)
    with world.postgres.connect() as admin:
        admin.execute(f"CREATE TABLE {role}.orders(id int); ALTER TABLE {role}.orders OWNER TO {role}".encode())
    file = tmp_path / "drop.sql"
    file.write_bytes(b"\xef\xbb\xbf-- CHG-7\r\nDROP TABLE orders;\r\nCREATE TABLE orders2(id int);\r\n")
    done = jane.types("ddl", "submit", name, "-f", str(file), "--reason", "CHG-7", "--name", "drop")
    assert done.returncode == 0, done.stderr
    assert re.search(r"1 +DROP TABLE orders\n.*2 +CREATE TABLE orders2", done.stdout, re.DOTALL)
    assert "DDLApproval drop" in done.stdout
    assert "vaultbrix ddl show drop" in done.stdout
    assert "byte-order mark" in done.stderr
    (made,) = approvals(world, team)
    assert made["spec"]["requestedBy"] == f"system:serviceaccount:{team}:person"
    assert made["spec"]["sql"].startswith("-- CHG-7\r\n")
    read_by_operator(world, team, "drop")

    assert re.search(rf"drop +{name} +Pending", boss.succeeds("ddl", "list", "--pending"))
    assert "vaultbrix ddl show drop" in boss.succeeds("status", "-n", team)
    assert "waits for a decision: drop" in boss.types("explain", "--ip", "203.0.113.9", "--tenant", name).stdout
    said = boss.succeeds("ddl", "show", "drop", "--sql")
    sha = digest(made["spec"]["sql"]).hex()
    for part in ("Pending, has waited", "CHG-7", sha, "DROP TABLE orders", f"ddl approve drop -n {team}",
                 "    1 | -- CHG-7\n    2 | DROP TABLE orders;\n"):  # fmt: skip
        assert part in said
    waiting = Process(jane.command("ddl", "wait", "drop"), tmp_path / "wait.log", env=jane.environment)
    waiting.start()
    wait_for("it says what it waits for", lambda: "for a decision" in waiting.text())
    said = boss.succeeds("ddl", "approve", "drop", "--sha256", sha[:8], "--message", "fine")
    assert "is approved by test" in said
    run_job(world, made["metadata"]["uid"])
    wait_for("it has ended", lambda: not waiting.running)
    assert waiting.stop() == 0, waiting.text()
    assert "Running" in waiting.text()
    assert "2 statements in" in waiting.text()
    assert world.postgres.query("SELECT relname::text FROM pg_class WHERE relnamespace = %s::regnamespace", [role]) == [
        ("orders2",)
    ]
    assert decision(world, team, "drop") == {
        "verdict": "Approved", "by": "test", "sha256": sha, "message": "fine", "allowNested": False,
    }  # fmt: skip
    said = boss.succeeds("ddl", "show", "drop")
    assert "Succeeded, ran" in said
    assert "Approved by test" in said
    assert jane.types("ddl", "wait", "drop").returncode == 0
    assert boss.types("ddl", "wait", "drop", "--for", "decided").returncode == 0
    assert "was decided: Approved by test" in boss.fails("ddl", "approve", "drop", "--yes")
    assert "no DDLApproval waits" in boss.succeeds("ddl", "list", "--pending")


def test_a_denial_reaches_whoever_waits(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane, boss = requester(world, team), Person.admin(world, team)
    jane.succeeds("ddl", "submit", name, "--sql", DROP, "--reason", "CHG-8", "--name", "drop")
    said = boss.succeeds("ddl", "deny", "drop", "--message", "not before May", "--yes")
    assert "is denied by test" in said
    done = jane.types("ddl", "wait", "drop")
    assert (done.returncode, "not before May" in done.stderr) == (4, True)
    assert jane.types("ddl", "wait", "drop", "--for", "decided").returncode == 4
    assert "vaultbrix ddl submit" in done.stderr


def test_whoever_asked_cannot_decide_and_nothing_is_written(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    boss = Person.admin(world, team)
    boss.succeeds("ddl", "submit", name, "--sql", DROP, "--reason", "CHG-9", "--name", "drop")
    assert "drop was asked for by test, who cannot decide on it" in boss.fails("ddl", "approve", "drop", "--yes")
    assert "cannot decide on it" in boss.fails("ddl", "deny", "drop", "--message", "no", "--sha256", SHA[:8])
    assert decision(world, team, "drop") == {}


def test_a_script_decides_on_the_text_that_it_names_and_on_no_other(world: World) -> None:
    team = world.team()
    boss = Person.admin(world, team)
    world.api.apply(approval(team, "drop", world.tenant(team), DROP))
    said = boss.fails("ddl", "approve", "drop", "--sha256", "0" * 8)
    assert "is not the one that you mean" in said
    said = boss.fails("ddl", "approve", "drop", code=2)
    assert f"--sha256 {SHA[:8]}" in said
    assert decision(world, team, "drop") == {}
    boss.succeeds("ddl", "approve", "drop", "--sha256", SHA.upper())
    assert decision(world, team, "drop")["sha256"] == SHA


def test_a_text_is_checked_with_its_place_before_anything_is_written(world: World, tmp_path: Path) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.admin(world, team)
    file = tmp_path / "x.sql"

    def refused(content: bytes) -> str:
        file.write_bytes(content)
        said = jane.fails("ddl", "submit", name, "-f", str(file), "--reason", "CHG-1", code=2)
        assert said.startswith(f"error: -f {file}: ")
        return said

    said = refused(b"DROP TABLE a;\r\nDROP TABEL b;\r\n")
    assert said.splitlines()[0].endswith('line 2, column 6: syntax error at or near "TABEL"')
    assert said.splitlines()[1:] == ["  DROP TABEL b;", "       ^"]
    for content, says in (
        (b"", "is empty"),
        (b"-- only a comment\n", "no statement"),
        (DROP.encode("utf-16"), "UTF-16"),
        (b"DROP TABLE caf\xe9", "0xE9"),
        (b"DROP TABLE a\x00", "U+0000"),
        ("DROP TABLE a -- \u202e".encode(), "U+202E"),
        (b"\\i other.sql", "psql"),
        (b"BEGIN; DROP TABLE a", "statement 1 controls"),
        (b"-" * (256 * 1024 + 1), "256 KiB"),
    ):
        assert says in refused(content)
    done = jane.pipes(b"DROP TABEL b", "ddl", "submit", name, "-f", "-", "--reason", "CHG-1")
    assert (done.returncode, done.stderr.splitlines()[0][:19]) == (2, b"error: -f -: line 1")
    assert approvals(world, team) == []


def test_what_is_submitted_is_what_was_given(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.admin(world, team)
    options = [
        "--reason",
        "CHG-1",
        "--session",
        "--valid-for",
        "2h",
        "--lock-timeout",
        "9s",
        "--statement-timeout",
        "1h",
    ]
    text = 'DROP TABLE "caf\u00e9";\n-- \u6771\n'
    done = jane.pipes(text.encode(), "ddl", "submit", name, "-f", "-", *options, "-o", "json", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert approvals(world, team) == []
    done = jane.pipes(text.encode(), "ddl", "submit", name, "-f", "-", *options, "-o", "json")
    assert json.loads(done.stdout)["spec"] == approvals(world, team)[0]["spec"] == {
        "tenantRef": {"name": name}, "sql": text, "reason": "CHG-1", "requestedBy": "test", "execution": "Session",
        "validFor": "2h", "lockTimeout": "9s", "statementTimeout": "1h",
    }  # fmt: skip
    made = approvals(world, team)[0]["metadata"]["name"]
    assert made.startswith(f"{name}-")
    read_by_operator(world, team, made)
    done = jane.pipes(text.encode(), "ddl", "submit", name, "-f", "-", "--reason", "again", "--dry-run")
    assert f"note: {made} has the same text".encode() in done.stderr
    assert (
        "nothing of it needs an approval"
        in jane.types("ddl", "submit", name, "--sql", "SELECT 1", "--reason", "CHG-1", "--dry-run").stderr
    )
    said = jane.fails("ddl", "submit", name, "--sql", DROP, "--reason", "CHG-1", "--name", made)
    assert "has a DDLApproval of that name" in said


def test_submit_can_wait_and_ends_as_wait_does(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.admin(world, team)
    done = jane.types("ddl", "submit", name, "--sql", DROP, "--reason", "CHG-1", "--wait", "--timeout", "1s")
    assert done.returncode == 7
    assert "not settled after 1s: has waited" in done.stderr
    assert "vaultbrix ddl approve" in done.stderr


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
    told(alone, team, "drop", conditions=[ready] if status["phase"] else [], **status)
    done = jane.types("ddl", "wait", "drop", "--timeout", "1s")
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert done.stderr.startswith("error: drop: ")
    if "progress" in status:
        assert "drop: Running: statement 2 of 3, sorting, 40 %" in done.stdout


def test_waiting_survives_an_api_server_that_is_away_and_ends_with_the_object(alone: World, tmp_path: Path) -> None:
    team = alone.team()
    jane = Person.admin(alone, team)
    told(alone, team, "drop", phase="Running")
    waiting = Process(jane.command("ddl", "wait", "drop"), tmp_path / "wait.log", env=jane.environment)
    waiting.start()
    wait_for("it waits", lambda: "Running" in waiting.text())
    alone.api.pause()
    alone.api.resume()
    report(alone, team, "drop", phase="Succeeded")
    wait_for("it has ended", lambda: not waiting.running, tell=waiting.text)
    assert waiting.stop() == 0, waiting.text()
    told(alone, team, "gone")
    waiting = Process(jane.command("ddl", "wait", "gone"), tmp_path / "gone.log", env=jane.environment)
    waiting.start()
    wait_for("it waits", lambda: "Pending" in waiting.text())
    alone.api.delete("ddl", "gone", team)
    wait_for("it has ended", lambda: not waiting.running, tell=waiting.text)
    assert (waiting.stop(), "was deleted meanwhile" in waiting.text()) == (1, True)


def test_what_would_go_is_listed_with_its_size(alone: World) -> None:
    team = alone.team()
    told(alone, team, "drop", rehearsal=REHEARSAL)
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
    told(alone, team, "drop", rehearsal=FAILED)
    said = boss.fails("ddl", "approve", "drop", "--yes")
    assert "statement 1: 2BP01 others depend on it" in said
    assert "--despite-rehearsal" in said
    assert decision(alone, team, "drop") == {}
    boss.succeeds("ddl", "approve", "drop", "--yes", "--despite-rehearsal", "--allow-nested")
    assert decision(alone, team, "drop")["allowNested"] is True


def test_a_status_that_is_not_of_the_text_is_not_approved(alone: World) -> None:
    team = alone.team()
    boss = Person.admin(alone, team)
    told(alone, team, "drop", sha256="0" * 64)
    assert "statements above are not those of the text" in boss.succeeds("ddl", "show", "drop")
    assert "somebody else than the operator wrote it" in boss.fails("ddl", "approve", "drop", "--sha256", "0" * 8)
    assert decision(alone, team, "drop") == {}


def test_a_status_that_says_less_than_the_text_is_contradicted(alone: World) -> None:
    team = alone.team()
    told(alone, team, "drop", sql=f"{DROP}; DROP TABLE customers")
    said = Person.admin(alone, team).succeeds("ddl", "show", "drop")
    assert "! read here, statement 2 is: DROP TABLE customers" in said


@pytest.mark.parametrize("typed", [SHA[:7], "yes", ""])
def test_at_a_terminal_nothing_but_the_sha256_is_consent(alone: World, typed: str) -> None:
    team = alone.team()
    told(alone, team, "drop", rehearsal=REHEARSAL)
    screen = Person.admin(alone, team).terminal("ddl", "approve", "drop")
    screen.awaits("characters of its sha256:")
    assert "table tenant_acme.orders" in screen.text
    screen.types(typed)
    assert screen.ends() == 1
    assert "nothing was decided" in screen.text
    assert decision(alone, team, "drop") == {}


def test_at_a_terminal_the_sha256_decides_whatever_of_no_matter_changed(alone: World) -> None:
    team = alone.team()
    told(alone, team, "drop")
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
    told(world, team, "drop", rehearsal=REHEARSAL)


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
    told(alone, team, "drop", rehearsal=REHEARSAL)
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
    told(
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
    told(alone, team, "done", phase="Succeeded", finishedAt=NOW)
    told(alone, team, "waits", statements=[{**STATEMENT, "danger": "Index"}, {**STATEMENT, "position": 2}])
    told(alone, team, "runs", phase="Running")
    told(alone, other, "theirs")
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


def test_a_tenant_that_runs_it_itself_is_told_how(alone: World) -> None:
    team = alone.team()
    told(
        alone, team, "mine", phase="Approved", expiresAt="2099-01-01T00:00:00Z",
        spec={"execution": "Session", "decision": {"verdict": "Approved", "by": "boss", "sha256": SHA}},
    )  # fmt: skip
    jane = Person.admin(alone, team)
    said = jane.succeeds("ddl", "wait", "mine", "--for", "decided")
    assert "approved by boss, for" in said
    assert "before 2099-01-01T00:00:00Z" in said
    (command,) = re.findall(r"kubectl -n \S+ get ddl \S+ -o jsonpath='\S+'", said)
    assert alone.api.kubectl(*command.replace("'", "").split()[1:]) == DROP


def test_wrong_names_rights_and_ways_are_one_clear_line(alone: World) -> None:
    team = alone.team()
    told(alone, team, "drop")
    jane = Person.admin(alone, team)
    assert "did you mean drop?" in jane.fails("ddl", "show", "drip")
    for command in (["show", "no"], ["approve", "no", "--yes"], ["deny", "no", "--message", "x"], ["wait", "no"],
                    ["submit", "no", "--sql", DROP, "--reason", "x"]):  # fmt: skip
        assert "not found in namespace" in jane.fails("ddl", *command)
    reader = Person.of(alone, team, may(READ, "ddlapprovals"))
    said = reader.fails("ddl", "approve", "drop", "--yes")
    assert 'cannot patch resource "ddlapprovals"' in said
    assert len(said.splitlines()) == 1
    assert 'cannot get resource "tenants"' in reader.fails("ddl", "submit", "acme", "--sql", DROP, "--reason", "x")
    assert 'cannot list resource "ddlapprovals"' in reader.fails("ddl", "list", "-A")
    nobody = Person(alone.directory / "no-such-kubeconfig")
    for command in (["list"], ["show", "a"], ["approve", "a"], ["wait", "a"]):
        assert "set KUBECONFIG" in nobody.fails("ddl", *command)


def test_the_shell_completes_names(alone: World) -> None:
    team, other = alone.team(), alone.team()
    told(alone, team, "drop-orders")
    told(alone, other, "drop-items")
    jane = Person.admin(alone, team)

    def completes(line: str, kubeconfig: Path = jane.kubeconfig) -> list[str]:
        environment = {
            **os.environ, **jane.environment, "KUBECONFIG": str(kubeconfig), "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1), "_VAULTBRIX_COMPLETE": "complete_bash",
        }  # fmt: skip
        done = subprocess.run(
            [Path(VAULTBRIX[0]).with_name("vaultbrix")], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert completes("vaultbrix ddl show dr") == ["drop-orders"]
    assert completes(f"vaultbrix ddl show -n {other} dr") == ["drop-items"]
    assert completes("vaultbrix ddl show x") == []
    assert completes("vaultbrix ddl show dr", Path("/nonexistent")) == []
