"""The command line for people, run as they run it, against everything that is real."""

import json
import re
import shlex
import signal
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.harness.command_line import READ, Person, may
from tests.harness.network import SERVER
from tests.harness.postgres import VERSION
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.world import EVE, PORT, World, approval, in_seconds, rule, tenant


def only(world: World, team: str) -> dict[str, Any]:
    """The one rule of the namespace."""
    (found,) = rules_of(world, team)
    return found


def rules_of(world: World, team: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(world.api.kubectl("-n", team, "get", "accessrules", "-o", "json"))["items"]
    return items


def until(found: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(found["status"]["expiresAt"])


def test_a_person_opens_extends_understands_and_ends_access(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    role = f"tenant_{name.replace('-', '_')}"
    jane = Person.admin(world, team)
    said = jane.succeeds("allow", name, "--cidr", "203.0.113.60", "--for", "2h", "--reason", "CHG-1")
    found = only(world, team)
    rule_name = found["metadata"]["name"]
    assert found["spec"] == {
        "tenantRef": {"name": name},
        "cidrs": ["203.0.113.60/32"],
        "ttl": "2h",
        "reason": "CHG-1",
        "requestedBy": "test",
        "login": "Tenant",
        "revoked": False,
    }
    for told in (SERVER, str(PORT), role, f"{name}-db", rule_name):
        assert told in said
    assert world.password(team, name) not in said
    psql = world.psql("203.0.113.60", team, name, "SELECT 1")
    assert psql.works(), "it says open when it is"
    printed = [line.strip() for line in said.splitlines() if line.strip().startswith(("kubectl ", "psql "))]
    session = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    done = jane.runs("203.0.113.60", *printed[:-1], f'{printed[-1]} -XAtc "{session}"')
    assert done.stdout.strip() == f"{role}|t", done.stderr
    stranger = shlex.quote(str(world.store.postgres.authority))
    done = jane.runs("203.0.113.60", f"cp {stranger} {name}-db.ca.crt", f"{printed[-1]} -XAtc 'SELECT 1'")
    assert "SSL error" in done.stderr

    listed = jane.succeeds("rules")
    assert re.search(rf"{rule_name} +{name} +203\.0\.113\.60/32 +Open +1h59m left +\d+ +True +test +CHG-1", listed)

    said = jane.succeeds("explain", "--ip", "203.0.113.60", "--tenant", name)
    assert said.startswith(f"yes: 203.0.113.60 may log in as {role}")
    for told in ("kernel +yes: agent-1", "pg_hba +yes: agent-1", "network policy +yes:", "requested by +test: CHG-1"):
        assert re.search(told, said)
    done = jane.types("explain", "--ip", EVE, "--tenant", name)
    assert done.returncode == 1
    assert "no rule of the tenant covers that address" in done.stdout
    assert "203.0.113.60/32" in done.stdout
    assert f"vaultbrix allow {name}" in done.stdout

    before = until(found)
    assert "2h59m left" in jane.succeeds("extend", rule_name, "--for", "1h")
    assert until(only(world, team)) == before + timedelta(hours=1)
    soon = in_seconds(1800)
    assert soon in jane.succeeds("extend", rule_name, "--until", soon)
    assert psql.works()

    session = world.psql("203.0.113.60", team, name, "SELECT pg_sleep(600)").hold(world.directory / "cli.log")
    said = jane.succeeds("revoke", rule_name)
    assert "revoked; closed by agent-1" in said
    wait_for("the session has ended", lambda: not session.running)
    # A backend that does not run for a moment loses its connection before it can give PostgreSQL's message.
    assert "57P01" in session.text() or "connection" in session.text()
    assert only(world, team)["spec"]["revoked"], "the record stays"
    assert "nothing to do" in jane.succeeds("revoke", rule_name)
    assert "never opens again" in jane.fails("extend", rule_name, "--for", "1h")

    assert rule_name not in jane.succeeds("rules")
    assert re.search(r"Revoked +ended \d+s ago", jane.succeeds("rules", "--all"))
    done = jane.types("explain", "--ip", "203.0.113.60", "--tenant", name)
    assert (done.returncode, "was revoked" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cidr", "203.0.113.7/24", "--for", "1h"], "write 203.0.113.0/24"),
        (["--cidr", "::ffff:203.0.113.7", "--for", "1h"], "write 203.0.113.7/32"),
        (["--cidr", "0.0.0.0/0", "--for", "1h"], "every address"),
        (["--cidr", "banana", "--for", "1h"], "--cidr banana"),
        (["--cidr", "203.0.113.7", "--cidr", "203.0.113.7/32", "--for", "1h"], "given twice"),
        ([*(part for n in range(33) for part in ("--cidr", f"203.0.113.{n}")), "--for", "1h"], "1 to 32"),
        (["--cidr", "203.0.113.7"], "--for"),
        (["--cidr", "203.0.113.7", "--for", "1h", "--until", "2099-01-01T00:00:00Z"], "--until"),
        (["--cidr", "203.0.113.7", "--for", "two hours"], "90s, 45m, 1h30m or 7d"),
        (["--cidr", "203.0.113.7", "--until", "2020-01-01T00:00:00Z"], "has passed"),
        (["--cidr", "203.0.113.7", "--until", "2099-01-01T00:00:00"], "time zone"),
        (["--cidr", "203.0.113.7", "--for", "1h", "--from", "2020-01-01T00:00:00Z"], "--from"),
        (["--cidr", "203.0.113.7", "--for", "1h", "--name", "Not A Name"], "--name"),
        (["--cidr", "203.0.113.7", "--for", "1h", "--requested-by", "two words"], "--requested-by"),
        (["--cidr", "203.0.113.7", "--for", "1h", "--timeout", "soon"], "--timeout"),
        (["--cidr", "203.0.113.7", "--for", "1h", "--login", "mine"], "--login"),
        (["--for", "1h"], "--cidr"),
        (["--cidr", "203.0.113.7", "--fro", "1h"], "--fro"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_usage_names_option_and_remedy_and_creates_nothing(world: World, options: list[str], says: str) -> None:
    jane = Person.admin(world, "default")
    assert says in jane.fails("allow", "acme", "--reason", "CHG-1", *options, code=2)
    assert rules_of(world, "default") == []


def test_what_the_server_would_reject_is_told_before_anything_is_created(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.admin(world, team)
    for options, says in (
        (["--cidr", "203.0.0.0/16", "--for", "1h"], "--cidr 203.0.0.0/16: wider than /24"),
        (["--cidr", "203.0.113.7", "--for", "169h"], "--for: a rule may last 168h"),
        (["--cidr", "203.0.113.7", "--until", in_seconds(169 * 3600)], "--until: a rule may last 168h"),
    ):
        assert says in jane.fails("allow", name, "--reason", "CHG-1", *options)
    assert rules_of(world, team) == []


def test_a_dry_run_creates_nothing_and_prints_what_it_would(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.admin(world, team)
    options = ["--cidr", "203.0.113.61", "--for", "90m", "--reason", "CHG-1", "--login", "per-rule", "--dry-run"]
    assert "would be created" in jane.succeeds("allow", name, *options)
    found = json.loads(jane.succeeds("allow", name, *options, "-o", "json", "--requested-by", "joe@example.com"))
    assert found["spec"]["login"] == "PerRule"
    assert found["spec"]["ttl"] == "1h30m"
    assert found["spec"]["requestedBy"] == "joe@example.com"
    assert rules_of(world, team) == []


def test_a_rule_that_opens_later_is_accepted_and_says_when(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.admin(world, team)
    options = ["--cidr", "203.0.113.62", "--from", in_seconds(3601), "--for", "1h", "--name", "later"]
    said = jane.succeeds("allow", name, *options, "--reason", "CHG-1")
    assert "opens in" in said
    assert "opens in" in jane.succeeds("rules", "--tenant", name)
    assert "has an AccessRule of that name" in jane.fails("allow", name, *options, "--reason", "CHG-1")


def test_names_that_are_wrong_by_little_are_found(world: World) -> None:
    team, other = world.team(), world.team()
    name = world.tenant(team)
    world.tenant(other, name=f"other-{other}")
    jane = Person.admin(world, team)
    access = ["--cidr", "203.0.113.7", "--for", "1h", "--reason", "CHG-1"]
    assert f"did you mean {name}?" in jane.fails("allow", f"{name[:-1]}", *access)
    assert f"add -n {other}" in jane.fails("allow", f"other-{other}", *access)
    assert "not found in namespace" in jane.fails("explain", "--ip", "203.0.113.7", "--tenant", "nobody")
    assert "not found in namespace" in jane.fails("revoke", "nothing")
    assert "not found in namespace nowhere" in jane.fails("extend", "nothing", "--for", "1h", "-n", "nowhere")
    assert "No such command" in jane.fails("alow", name, code=2)
    assert rules_of(world, team) == rules_of(world, other) == []


def test_a_rule_that_is_not_in_force_says_which_layer_lacks(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.admin(world, team)
    world.agent.kill()
    options = ["--cidr", "203.0.113.63", "--for", "1h", "--reason", "CHG-1", "--timeout", "3s", "--name", "early"]
    said = jane.fails("allow", name, *options)
    assert "not in force after 3s" in said
    assert "AgentPending" in said or "agent" in said
    done = jane.types("explain", "--ip", "203.0.113.63", "--tenant", name)
    assert done.returncode == 1
    assert "kernel" in done.stdout
    assert "early" in jane.succeeds("status", "-n", team)
    world.rule(team, name, "203.0.113.59/32", name="left")
    wait_for("it is open", lambda: world.api.get("accessrule", "left", team)["status"].get("openedAt"))
    assert "not reported closed after 2s" in jane.fails("revoke", "left", "--timeout", "2s")
    world.agent.start()
    world.api.await_condition("accessrule", "early", team)
    assert jane.types("explain", "--ip", "203.0.113.63", "--tenant", name).returncode == 0


def test_a_suspended_tenant_is_named_as_the_cause(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.admin(world, team)
    jane.succeeds("allow", name, "--cidr", "203.0.113.64", "--for", "1h", "--reason", "CHG-1")
    world.api.apply(tenant(team, name, suspended=True))
    wait_for("the rule waits", lambda: only(world, team)["status"]["phase"] == "Pending")
    done = jane.types("explain", "--ip", "203.0.113.64", "--tenant", name)
    assert (done.returncode, "suspended" in done.stdout) == (1, True)
    said = jane.fails("allow", name, "--cidr", "203.0.113.65", "--for", "1h", "--reason", "CHG-1")
    assert "TenantSuspended" in said


def test_no_way_to_the_cluster_is_one_clear_line(world: World) -> None:
    nobody = Person(world.directory / "no-such-kubeconfig")
    garbage = Person(world.directory / "garbage")
    garbage.kubeconfig.write_text("{ not: [a kubeconfig")
    empty = Person(world.directory / "empty")
    empty.kubeconfig.write_text("")
    config = json.loads(world.api.kubeconfig.read_text())
    stranger = Person(world.directory / "stranger")
    config["users"][0]["user"]["token"] = "nobody's"
    stranger.kubeconfig.write_text(json.dumps(config))
    away = Person(world.directory / "away")
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    away.kubeconfig.write_text(json.dumps(config))
    for person, says in (
        (nobody, "set KUBECONFIG"),
        (garbage, "set KUBECONFIG"),
        (empty, "set KUBECONFIG"),
        (stranger, "does not accept the credentials"),
        (away, "https://127.0.0.1:1"),
    ):
        for command in (["rules"], ["status"], ["revoke", "a"], ["explain", "--ip", EVE, "--tenant", "a"]):
            said = person.fails(*command)
            assert says in said
            assert len(said.splitlines()) == 1, said
    admin = Person.admin(world, "default")
    assert "set KUBECONFIG" in admin.fails("rules", "--context", "nowhere")


def test_what_is_forbidden_names_verb_and_resource(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    reader = Person.of(world, team, may(READ, "tenants"))
    said = reader.fails("allow", name, "--cidr", "203.0.113.7", "--for", "1h", "--reason", "CHG-1")
    assert 'cannot create resource "accessrules"' in said
    assert len(said.splitlines()) == 1
    assert 'cannot list resource "accessrules"' in reader.fails("rules")
    assert rules_of(world, team) == []


def test_rights_in_one_namespace_are_enough(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.of(world, team, may(READ, "tenants"), may([*READ, "create", "patch"], "accessrules"))
    said = jane.succeeds("allow", name, "--cidr", "203.0.113.66", "--for", "1h", "--reason", "CHG-1", "--name", "mine")
    assert f"{name}-db" in said
    assert only(world, team)["spec"]["requestedBy"] == f"system:serviceaccount:{team}:person"
    assert "mine" in jane.succeeds("rules")
    done = jane.types("explain", "--ip", "203.0.113.66", "--tenant", name)
    assert (done.returncode, "you may not read PostgresServers" in done.stdout) == (0, True)
    assert "you may not read" in jane.fails("explain", "--ip", "me", "--tenant", name)
    said = jane.fails("allow", name, "--cidr", "203.0.0.0/16", "--for", "1h", "--reason", "CHG-1")
    assert "PrefixTooWide" in said, "the operator's word where the limits cannot be read"
    said = jane.succeeds("status")
    assert "Rules: 1 open, 1 of them ending within the hour, 1 not ready" in said
    assert 'cannot list resource "postgresservers"' in said
    assert f"tenants of namespaces other than {team}" in said
    assert 'cannot list resource "ddlapprovals"' in said
    jane.succeeds("extend", "mine", "--for", "1h")
    jane.succeeds("revoke", "mine")


def test_status_shows_servers_and_what_needs_attention(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    world.api.apply(tenant(team, "lost", serverRef={"name": "nowhere"}, slug=f"lost_{team.replace('-', '_')}"))
    world.api.await_condition("tenant", "lost", team, status="False")
    world.rule(team, name, "203.0.113.67/32", name="ending", ttl="20m")
    world.rule(team, name, "203.0.0.0/16", name="wide")
    world.api.apply(approval(team, "drop", name, "DROP TABLE a"))
    world.api.await_condition("accessrule", "ending", team)
    world.api.await_condition("accessrule", "wide", team, status="False")
    jane = Person.admin(world, team)
    said = jane.succeeds("status")
    for told in ("main", rf"{VERSION}\.", f"{team}/lost: ServerNotFound", rf"{team}/ending: 1\dm left",
                 f"{team}/wide: PrefixTooWide", f"{team}/drop: since"):  # fmt: skip
        assert re.search(told, said)
    found = json.loads(jane.succeeds("status", "-n", team, "-o", "json"))
    assert [r["name"] for r in found["rulesEnding"]] == ["ending"]
    assert [r["name"] for r in found["rulesNotReady"]] == ["wide"]
    assert [r["name"] for r in found["tenantsNotReady"]] == ["lost"]
    assert [r["name"] for r in found["approvalsWaiting"]] == ["drop"]
    assert found["servers"][0]["ready"] is True
    assert found["notSeen"] == []


def test_nothing_that_a_tenant_wrote_reaches_the_terminal_as_a_command(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    for control in ("\x1b[31m", "\x9b2J", "\r", "\b"):
        refused = rule(team, "evil", name, "203.0.113.68/32", reason=f"CHG-1{control}")
        assert "spec.reason" in world.api.refusal(refused)
    evil = "[bold red]pay[/] \u202e :smile: \nerror: you are hacked"
    world.rule(team, name, "203.0.113.68/32", name="evil", reason=evil, ttl="20m")
    world.api.await_condition("accessrule", "evil", team)
    jane = Person.admin(world, team)
    for command in (
        ["rules"], ["explain", "--ip", "203.0.113.68", "--tenant", name], ["status", "-n", team],
        ["rules", "-o", "yaml"], ["rules", "-o", "json"],
    ):  # fmt: skip
        said = jane.succeeds(*command)
        assert not set("\x1b\x9b\u202e\r") & set(said)
        assert "[bold red]pay[/]" in said
        assert ":smile:" in said
        assert not any(line.startswith("error:") for line in said.splitlines())


def test_rules_are_printed_as_objects_too(world: World) -> None:
    team, other = world.team(), world.team()
    mine, theirs = world.tenant(team), world.tenant(other)
    world.rule(team, mine, "203.0.113.69/32", name="one")
    world.rule(team, mine, "203.0.113.70/32", name="ended", revoked=True)
    world.rule(other, theirs, "203.0.113.71/32", name="two")
    wait_for("it has ended", lambda: world.api.get("accessrule", "ended", team)["status"].get("closedAt"))
    jane = Person.admin(world, team)

    def names(*options: str) -> set[str]:
        found = json.loads(jane.succeeds("rules", "-o", "json", *options))
        assert (found["kind"], found["apiVersion"]) == ("List", "v1")
        assert all("managedFields" not in r["metadata"] for r in found["items"])
        return {f"{r['metadata']['namespace']}/{r['metadata']['name']}" for r in found["items"]}

    assert names() == {f"{team}/one"}
    assert names("--all") == {f"{team}/one", f"{team}/ended"}
    assert names("-n", other) == {f"{other}/two"}
    assert {f"{team}/one", f"{other}/two"} <= names("-A")
    assert names("-A", "--tenant", theirs) == {f"{other}/two"}
    assert "name: one" in jane.succeeds("rules", "-o", "yaml")
    assert re.search(rf"{other} +two", jane.succeeds("rules", "-A"))
    assert "no rule" in jane.succeeds("rules", "--tenant", "none")
    assert "--watch" in jane.fails("rules", "--watch", "-o", "json", code=2)


def test_a_watch_shows_changes_as_they_come_and_ends_when_asked(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    world.rule(team, name, "203.0.113.72/32", name="first")
    jane = Person.admin(world, team)
    watching = Process(jane.command("rules", "--watch"), world.directory / "watch.log", env=jane.environment)
    watching.start()
    wait_for("it shows what is there", lambda: "first" in watching.text())
    world.rule(team, name, "203.0.113.73/32", name="second")
    wait_for("it shows what comes", lambda: re.search(r"second .*Open .*True", watching.text()))
    world.api.delete("accessrule", "first", team)
    wait_for("it shows what goes", lambda: re.search(r"first .*Deleted", watching.text()))
    watching.stop(signal.SIGINT)
    assert "Traceback" not in watching.text()


def test_on_a_terminal_the_table_stays_current(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    world.rule(team, name, "203.0.113.75/32", name="first")
    jane = Person.admin(world, team)
    terminal = ["script", "--quiet", "--flush", "--return", "--command", shlex.join(jane.command("rules", "-w"))]
    watching = Process([*terminal, "/dev/null"], world.directory / "terminal.log", env=jane.environment)
    watching.start()
    try:
        wait_for("it shows what is there", lambda: "first" in watching.text())
        world.rule(team, name, "203.0.113.76/32", name="second")
        wait_for("it shows what comes", lambda: "second" in watching.text())
    finally:
        watching.stop()
    assert "Traceback" not in watching.text()


def test_a_rule_written_by_hand_is_extended_in_the_form_that_it_has(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    end = in_seconds(3600)
    world.api.apply(rule(team, "gitops", name, "203.0.113.74/32", expiresAt=end))
    world.api.await_condition("accessrule", "gitops", team)
    jane = Person.admin(world, team)
    jane.succeeds("extend", "gitops", "--for", "30m")
    found = only(world, team)["spec"]
    assert "ttl" not in found
    assert datetime.fromisoformat(found["expiresAt"]) == datetime.fromisoformat(end) + timedelta(minutes=30)
    said = jane.fails("extend", "gitops", "--for", "200h")
    assert "maxTTL" in said
    assert "revoke" in jane.fails("extend", "gitops", "--until", "2020-01-01T00:00:00Z", code=2)
    assert only(world, team)["spec"] == found
