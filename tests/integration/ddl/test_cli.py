"""``vaultbrix ddl`` as people run it: what an approver saw is what is decided, and what was decided is what runs."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.harness.command_line import READ, Person, may
from tests.harness.ddl_command_line import (
    DROP,
    SHA,
    approval_with_status,
    approvals,
    decision,
    read_by_operator,
    requester,
    run_job,
    tenant_with_orders,
)
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for
from tests.harness.world import World, approval

from vaultbrix.ddl.plan import digest


def test_a_change_is_asked_for_shown_approved_and_runs(world: World, tmp_path: Path) -> None:
    team = world.team()
    name = tenant_with_orders(world, team)
    role = f"tenant_{name.replace('-', '_')}"
    jane, boss = requester(world, team), Person.admin(world, team)
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
    world.api.apply(approval(team, "drop", tenant_with_orders(world, team), DROP))
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


EF_SCRIPT = """START TRANSACTION;

DO $EF$
BEGIN
    IF NOT EXISTS(SELECT 1 FROM "__EFMigrationsHistory" WHERE "MigrationId" = '2026_Note') THEN
    ALTER TABLE "Orders" ADD "Note" text;
    END IF;
END $EF$;
COMMIT;
"""
DUMP = "-- PostgreSQL database dump\n\n\\restrict abc\n\nALTER TABLE orders DROP COLUMN legacy;\n\n\\unrestrict abc\n"


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        (EF_SCRIPT, "NotSupported", "line 1, column 1: statement 1 controls the transaction; leave START TRANSACTION "
         "out: a text runs in one transaction where it can; leave out COMMIT in statement 3 as well"),
        (DUMP, "SyntaxError", "line 3, column 1: \\restrict is a command of psql, not SQL; "
         "leave it out, or write what it stands for"),
    ],
    ids=["Entity Framework", "pg_dump"],
)  # fmt: skip
def test_what_a_tool_wrote_around_its_text_is_refused_in_the_same_words_here_and_in_the_object(
    world: World, tmp_path: Path, text: str, reason: str, says: str
) -> None:
    team = world.team()
    name = world.tenant(team)
    file = tmp_path / "x.sql"
    file.write_text(text)
    said = Person.admin(world, team).fails("ddl", "submit", name, "-f", str(file), "--reason", "CHG-1", code=2)
    assert said.splitlines()[0] == f"error: -f {file}: {says}"
    assert approvals(world, team) == []
    world.api.apply(approval(team, "tool", name, text))
    found = wait_for("it is read", lambda: world.api.get("ddl", "tool", team).get("status", {}).get("conditions"))
    (ready,) = [c for c in found if c["type"] == "Ready"]
    assert (ready["reason"], ready["message"]) == (reason, f"spec.sql {says}; correct it in a new DDLApproval")
    assert world.api.get("ddl", "tool", team)["status"]["phase"] == "Invalid"


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


def test_a_tenant_that_runs_it_itself_is_told_how(alone: World) -> None:
    team = alone.team()
    approval_with_status(
        alone, team, "mine", phase="Approved", expiresAt="2099-01-01T00:00:00Z",
        spec={"execution": "Session", "decision": {"verdict": "Approved", "by": "boss", "sha256": SHA}},
    )  # fmt: skip
    jane = Person.admin(alone, team)
    said = jane.succeeds("ddl", "wait", "mine", "--for", "decided")
    assert "approved by boss, for" in said
    assert "before 2099-01-01T00:00:00Z" in said
    (command,) = re.findall(r"kubectl -n \S+ get ddl \S+ -o jsonpath='\S+'", said)
    assert "get secret acme-db -o" in said, "the name by default, where the Tenant cannot be read"
    assert alone.api.kubectl(*command.replace("'", "").split()[1:]) == DROP


def test_the_lines_that_a_tenant_is_told_run_as_they_are_printed(world: World) -> None:
    team = world.team()
    name = world.tenant(team, credentials={"secretName": "its-own"})
    role = f"tenant_{name.replace('-', '_')}"
    address = world.network.client("203.0.113.58")
    world.api.await_condition("accessrule", world.rule(team, name, f"{address}/32"), team)
    with world.postgres.connect() as admin:
        admin.execute(f"CREATE TABLE {role}.orders(id int); ALTER TABLE {role}.orders OWNER TO {role}".encode())
    world.api.apply(approval(team, "mine", name, DROP, execution="Session"))
    boss = Person.admin(world, team)
    read_by_operator(world, team, "mine")
    boss.succeeds("ddl", "approve", "mine", "--sha256", SHA[:8])
    said = boss.succeeds("ddl", "wait", "mine", "--for", "decided")
    wait_for(
        "the pass is there",
        lambda: world.postgres.query("SELECT 1 FROM vaultbrix.ddl_pass WHERE role_name = %s", [role]),
    )
    printed = [line.strip() for line in said.splitlines() if line.startswith("  kubectl ")]
    assert len(printed) == 2, said
    assert [line for line in boss.succeeds("ddl", "show", "mine").splitlines() if line.startswith("  kubectl ")] == [
        f"  {line}" for line in printed
    ]
    done = boss.runs(address, "set -o pipefail", *printed)
    assert (done.returncode, done.stdout.split()) == (0, ["DROP", "TABLE"]), done.stderr
    assert world.postgres.query("SELECT to_regclass(%s)", [f"{role}.orders"]) == [(None,)]


def test_wrong_names_rights_and_ways_are_one_clear_line(alone: World) -> None:
    team = alone.team()
    approval_with_status(alone, team, "drop")
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
    approval_with_status(alone, team, "drop-orders")
    approval_with_status(alone, other, "drop-items")
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
