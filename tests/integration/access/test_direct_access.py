"""Direct access: clients with addresses of their own, a real kernel, and deadlines that hold."""

import json
import time
from datetime import datetime
from pathlib import Path

from tests.harness.direct_access import held_session, is_reset
from tests.harness.network import SERVER6
from tests.harness.processes import Process
from tests.harness.shell import run, wait_for
from tests.harness.world import EVE, JANE, SERVER_NAME, World, in_seconds, rule


def kernel(world: World) -> str:
    return run(*world.network.inside("server", ["ipset", "list", "vbx-allow4"])).stdout


def chain(world: World, name: str) -> list[str]:
    return run(*world.network.inside("server", ["iptables-legacy", "-S", name])).stdout.splitlines()


def deadline(world: World, team: str, name: str) -> float:
    text = world.api.get("accessrule", name, team)["status"]["expiresAt"]
    return datetime.fromisoformat(text).timestamp()


def test_only_the_address_of_a_rule_gets_an_answer(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    assert is_reset(world, JANE)
    name = world.rule(team, tenant, f"{JANE}/32")
    shown = world.psql(JANE, team, tenant, "SELECT current_user, inet_client_addr()")
    wait_for("jane connects", shown.works)
    assert shown.run().stdout.strip() == f"tenant_{tenant.replace('-', '_')}|{JANE}"
    assert is_reset(world, EVE)
    world.api.await_condition("accessrule", name, team)
    world.api.delete("accessrule", name, team)
    wait_for("jane is refused", lambda: is_reset(world, JANE))


def test_an_address_gets_in_as_its_own_tenant_and_as_no_other(world: World) -> None:
    team = world.team()
    mine, theirs = world.tenant(team), world.tenant(team)
    world.rule(team, mine, "203.0.113.20/32")
    wait_for("it connects", world.psql("203.0.113.20", team, mine, "SELECT 1").works)
    done = world.psql("203.0.113.20", team, theirs, "SELECT 1").run()
    assert done.returncode != 0
    assert "pg_hba.conf" in done.stderr


def test_ipv6_is_let_in_and_refused_alike(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    address = world.network.client("2001:db8::7")
    psql = world.psql(address, team, tenant, "SELECT 1", host=SERVER6)
    assert "Connection refused" in psql.run().stderr
    name = world.rule(team, tenant, "2001:db8::7/128")
    wait_for("it connects", psql.works, tell=lambda: psql.run().stderr)
    world.api.delete("accessrule", name, team)
    wait_for("it is refused", lambda: "Connection refused" in psql.run().stderr)


def test_a_rule_ends_at_its_deadline_with_its_session(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.21/32", ttl="6s")
    wait_for("it connects", world.psql("203.0.113.21", team, tenant, "SELECT 1").works)
    session = held_session(world, "203.0.113.21", team, tenant, "deadline")
    end = deadline(world, team, name)
    wait_for("the session has ended", lambda: not session.running, pause=0.01)
    assert time.time() >= end, "ended early"
    assert is_reset(world, "203.0.113.21")
    wait_for("it says so", lambda: world.api.get("accessrule", name, team)["status"]["phase"] == "Expired")
    assert world.api.get("accessrule", name, team)["status"]["closedReason"] == "Expired"


def test_a_revoked_rule_ends_at_once_with_its_session(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.22/32")
    wait_for("it connects", world.psql("203.0.113.22", team, tenant, "SELECT 1").works)
    session = held_session(world, "203.0.113.22", team, tenant, "revoked")
    world.api.apply(rule(team, name, tenant, "203.0.113.22/32", revoked=True))
    wait_for("the session has ended", lambda: not session.running)
    assert is_reset(world, "203.0.113.22")
    wait_for("it says so", lambda: world.api.get("accessrule", name, team)["status"]["phase"] == "Revoked")


def test_closing_one_rule_cuts_nothing_that_another_covers(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    narrow = world.rule(team, tenant, "203.0.113.200/32")
    wide = world.rule(team, tenant, "203.0.113.192/27")
    psql = world.psql("203.0.113.200", team, tenant, "SELECT 1")
    wait_for("it connects", psql.works)
    world.api.await_condition("accessrule", narrow, team)
    world.api.await_condition("accessrule", wide, team)
    session = held_session(world, "203.0.113.200", team, tenant, "overlap")
    world.api.delete("accessrule", narrow, team)
    wait_for("the agent has closed it", lambda: f'"rule": "{team}/{narrow}"' not in grants_open(world))
    assert psql.works()
    assert session.running
    world.api.delete("accessrule", wide, team)
    wait_for("the last rule takes the session with it", lambda: not session.running)


def grants_open(world: World) -> str:
    return json.dumps(json.loads(world.grants.read_text())["grants"])


def test_a_deadline_holds_with_operator_and_api_server_down(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.24/32", ttl="8s")
    wait_for("it connects", world.psql("203.0.113.24", team, tenant, "SELECT 1").works)
    session = held_session(world, "203.0.113.24", team, tenant, "alone")
    end = deadline(world, team, name)
    world.operator.kill()
    world.api.pause()
    try:
        wait_for("the session has ended", lambda: not session.running, pause=0.01)
        assert time.time() >= end, "ended early"
        assert is_reset(world, "203.0.113.24")
    finally:
        world.api.resume()


def test_a_deadline_holds_with_every_process_of_ours_dead(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.25/32", ttl="8s")
    psql = world.psql("203.0.113.25", team, tenant, "SELECT 1")
    wait_for("it connects", psql.works)
    world.api.await_condition("accessrule", name, team)
    busy = "DO $$ BEGIN FOR i IN 1..600 LOOP RAISE NOTICE '%', i; PERFORM pg_sleep(0.1); END LOOP; END $$"
    talking = world.psql("203.0.113.25", team, tenant, busy).hold(world.directory / "talking.log")
    wait_for("the session talks", lambda: "NOTICE" in talking.text())
    end = deadline(world, team, name)
    for process in (world.operator, world.agent):
        process.kill()
    world.api.pause()
    try:
        wait_for("the address is refused", lambda: is_reset(world, "203.0.113.25"))
        assert time.time() >= end, "refused early"
        # Nothing that the client sends arrives any more, and so nothing is acknowledged.
        said = wait_for("the session is cut off", lambda: silence(talking), patience=20)
        assert said
    finally:
        talking.kill()
        world.api.resume()


def silence(process: Process) -> bool:
    """Whether nothing was said for two seconds, or the session has ended."""
    before = process.text()
    time.sleep(2)
    return not process.running or process.text() == before


def test_an_agent_that_comes_back_keeps_what_is_open_and_closes_what_has_ended(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    kept = world.rule(team, tenant, "203.0.113.26/32")
    short = world.rule(team, tenant, "203.0.113.27/32", expiresAt=in_seconds(20))
    for address, name in (("203.0.113.26", kept), ("203.0.113.27", short)):
        wait_for("it connects", world.psql(address, team, tenant, "SELECT 1").works)
        world.api.await_condition("accessrule", name, team)
    session = held_session(world, "203.0.113.26", team, tenant, "kept")
    ending = held_session(world, "203.0.113.27", team, tenant, "ending")
    world.agent.kill()
    wait_for("the deadline has passed", lambda: is_reset(world, "203.0.113.27"))
    world.agent.start()
    wait_for("the late session has ended", lambda: not ending.running)
    assert session.running
    assert world.psql("203.0.113.26", team, tenant, "SELECT 1").works()
    session.kill()


def test_an_agent_that_lost_its_state_starts_closed_and_learns(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    world.rule(team, tenant, "203.0.113.28/32")
    psql = world.psql("203.0.113.28", team, tenant, "SELECT 1")
    wait_for("it connects", psql.works)
    world.agent.kill()
    world.grants.write_text("{ this is no state")
    run(*world.network.inside("server", ["iptables-legacy", "-F"]))
    run(*world.network.inside("server", ["ipset", "flush"]))
    world.agent.start()
    wait_for("everybody else is refused", lambda: is_reset(world, EVE))
    wait_for("it connects again", psql.works)


def test_rules_hold_over_a_restart_of_postgresql(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.29/32")
    psql = world.psql("203.0.113.29", team, tenant, "SELECT 1")
    wait_for("it connects", psql.works)
    world.postgres.crash()
    world.postgres.start()
    wait_for("it connects again", psql.works)
    world.api.delete("accessrule", name, team)
    wait_for("it is refused", lambda: is_reset(world, "203.0.113.29"))


def test_a_chain_that_somebody_flushed_is_restored(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    world.rule(team, tenant, "203.0.113.30/32")
    wait_for("it connects", world.psql("203.0.113.30", team, tenant, "SELECT 1").works)
    inside = world.network.inside
    run(*inside("server", ["iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"]))
    run(*inside("server", ["iptables-legacy", "-F", "VAULTBRIX"]))
    accept = ["-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"]
    run(*inside("server", ["iptables-legacy", "-I", "INPUT", *accept]))
    wait_for("the chain is whole", lambda: any("REJECT" in line for line in chain(world, "VAULTBRIX")))
    wait_for("our jump is first again", lambda: "VAULTBRIX" in chain(world, "INPUT")[1])
    assert any("192.0.2.1" in line for line in chain(world, "INPUT")), "a foreign rule is left alone"
    assert is_reset(world, EVE)
    assert world.psql("203.0.113.30", team, tenant, "SELECT 1").works()


def test_an_address_that_somebody_put_into_the_set_is_taken_out(world: World) -> None:
    world.team()
    run(*world.network.inside("server", ["ipset", "add", "vbx-allow4", "198.51.100.77/32", "timeout", "1000"]))
    wait_for("it is taken out", lambda: "198.51.100.77" not in kernel(world))


def test_foreign_lines_of_pg_hba_are_kept_and_a_broken_one_stops_no_closing(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.31/32")
    wait_for("it connects", world.psql("203.0.113.31", team, tenant, "SELECT 1").works)
    session = held_session(world, "203.0.113.31", team, tenant, "broken-hba")
    file: Path = world.postgres.hba_file
    good = file.read_text()
    file.write_text(good + "# a comment of somebody else\nhost nonsense\n")
    try:
        world.api.delete("accessrule", name, team)
        wait_for("the session has ended", lambda: not session.running)
        assert is_reset(world, "203.0.113.31")
        assert "# a comment of somebody else\nhost nonsense\n" in file.read_text()
        other = world.rule(team, tenant, "203.0.113.32/32")
        told = world.api.await_condition("accessrule", other, team, type_="Enforced", status="False")
        assert "line" in told["message"]

        def of_the_agent() -> str:
            (agent,) = world.api.get("pgs", SERVER_NAME, "")["status"]["agents"]
            return str(agent["error"])

        wait_for("the agent says so of itself", lambda: "hba: pg_hba.conf line" in of_the_agent())
    finally:
        file.write_text(file.read_text().replace("host nonsense\n", ""))
    world.api.await_condition("accessrule", other, team)


def test_a_rule_beyond_the_limits_opens_nothing(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    wide = world.rule(team, tenant, "203.0.0.0/16")
    long = world.rule(team, tenant, "203.0.113.33/32", ttl="1000h")
    told = world.api.await_condition("accessrule", wide, team, status="False", reason="PrefixTooWide")
    assert "spec.cidrs[0]" in told["message"]
    told = world.api.await_condition("accessrule", long, team, status="False", reason="TTLTooLong")
    assert "maxTTL" in told["message"]
    assert is_reset(world, "203.0.113.33")


def test_a_rule_of_a_missing_tenant_waits_and_opens_when_it_comes(world: World) -> None:
    team = world.team()
    name = world.rule(team, "later", "203.0.113.34/32")
    told = world.api.await_condition("accessrule", name, team, status="False", reason="TenantNotFound")
    assert "later" in told["message"]
    assert is_reset(world, "203.0.113.34")
    world.tenant(team, name="later", slug=f"later_{team.replace('-', '_')}")
    world.api.await_condition("accessrule", name, team)


def test_the_tenants_networkpolicy_holds_the_open_addresses_and_no_others(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    policy = f"vaultbrix-main.tenant-{tenant}-access"
    world.rule(team, tenant, "203.0.113.35/32")
    closing = world.rule(team, tenant, "203.0.113.36/32", "2001:db8::36/128")

    def admitted() -> set[str]:
        found = world.api.get("networkpolicy", policy, "vaultbrix-test")
        return {p["ipBlock"]["cidr"] for i in found.get("spec", {}).get("ingress", []) for p in i["from"]}

    everything = {"203.0.113.35/32", "203.0.113.36/32", "2001:db8::36/128"}
    wait_for("the policy has all", lambda: admitted() == everything)
    world.api.delete("accessrule", closing, team)
    wait_for("the policy has what is open", lambda: admitted() == {"203.0.113.35/32"})
    world.api.delete("tenant", tenant, team)
    wait_for("the policy is gone", lambda: not world.api.get("networkpolicy", policy, "vaultbrix-test"))


def test_a_rule_that_ended_stays_closed_when_its_deadline_is_edited(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.37/32", ttl="3s")
    wait_for("it has ended", lambda: world.api.get("accessrule", name, team)["status"].get("phase") == "Expired")
    world.api.apply(rule(team, name, tenant, "203.0.113.37/32", ttl="1h"))
    another = world.rule(team, tenant, "203.0.113.38/32")
    world.api.await_condition("accessrule", another, team)
    assert is_reset(world, "203.0.113.37")
    assert world.api.get("accessrule", name, team)["status"]["phase"] == "Expired"
