"""What no object explains is told by the server, and ended where it is ours and harmless."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg import sql
from tests.harness.processes import Process
from tests.harness.shell import run, wait_for
from tests.harness.slot import SLOT
from tests.harness.tenants import restart_operator
from tests.harness.world import JOBS, SERVER_NAME, SYSTEM, World

PATIENCE = 120
MADE_HERE = {"app.kubernetes.io/managed-by": "vaultbrix"}


@pytest.fixture
def littered(world: World) -> Iterator[World]:
    """What a test leaves on the server is gone afterwards, and the server says so."""
    roles = {name for (name,) in world.postgres.query("SELECT rolname FROM pg_roles")}
    schemas = {name for (name,) in world.postgres.query("SELECT nspname FROM pg_namespace")}
    lines = world.postgres.hba_file.read_text()
    yield world
    if not world.operator.running:
        world.operator.start()
    for (name,) in world.postgres.query("SELECT nspname FROM pg_namespace"):
        if name not in schemas and not claimed(world, name):
            world.postgres.query(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
    for (name,) in world.postgres.query("SELECT rolname FROM pg_roles"):
        if name not in roles and not claimed(world, name):
            world.postgres.query(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))
            world.postgres.query(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
    if "left_behind" in world.postgres.hba_file.read_text():
        world.postgres.hba_file.write_text(lines)


def claimed(world: World, role: str) -> bool:
    return bool(world.postgres.query("SELECT 1 FROM vaultbrix.tenant WHERE role_name = %s", [role]))


def listed(world: World) -> set[tuple[str, str]]:
    found = world.api.get("pgs", SERVER_NAME).get("status", {}).get("orphans", [])
    return {(orphan["kind"], orphan["name"]) for orphan in found}


def ended(world: World) -> str:
    """What events of that reason say of the server."""
    items = json.loads(world.api.kubectl("get", "events", "-o", "json"))["items"]
    return "\n".join(e["message"] for e in items if e["reason"] == "OrphansEnded")


def told(world: World, orphan: tuple[str, str]) -> None:
    wait_for(f"{orphan} is told", lambda: orphan in listed(world), patience=PATIENCE, tell=lambda: listed(world))


def exists(world: World, role: str) -> bool:
    return bool(world.postgres.query("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]))


def make_login(world: World, name: str) -> None:
    """A login of ours, as a rule has it."""
    role = sql.Identifier(name)
    world.postgres.query(sql.SQL("CREATE ROLE {} LOGIN NOINHERIT PASSWORD 'left-behind'").format(role))
    world.postgres.query(sql.SQL("GRANT vaultbrix_tenants TO {}").format(role))
    # As each of ours has it, and no thing of value.
    world.postgres.query(
        sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {0} REVOKE TRUNCATE ON TABLES FROM {0}").format(role)
    )


def test_what_was_left_behind_is_told_and_what_is_harmless_ends(littered: World, tmp_path: Path) -> None:
    world = littered
    world.operator.stop()
    make_login(world, "tenant_left_behind")
    make_login(world, "tenant_left_behind_r_0123456789")
    make_login(world, "tenant_left_behind_r_9876543210")
    world.postgres.query("CREATE SCHEMA tenant_left_behind_too")
    world.postgres.query("CREATE TABLE tenant_left_behind_too.kept(id int)")
    world.postgres.query("ALTER TABLE tenant_left_behind_too.kept OWNER TO tenant_left_behind_r_9876543210")
    content = world.postgres.hba_file.read_text()
    world.postgres.hba_file.write_text(
        f"{content}hostssl all tenant_left_behind 203.0.113.99/32 scram-sha-256\n"
        "local all tenant_left_behind_r_0123456789 trust\n"
    )
    secret = f"ddl-{uuid4()}"
    metadata = {"name": secret, "namespace": JOBS, "labels": MADE_HERE}
    world.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"password": "x"}})
    metadata = {
        "name": "left-behind",
        "namespace": SYSTEM,
        "labels": {**MADE_HERE, "vaultbrix.com/server": SERVER_NAME},
    }
    world.api.apply({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata,
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    })  # fmt: skip
    world.operator.start()

    told(world, ("Login", "tenant_left_behind"))
    found = listed(world)
    assert {
        ("Login", "tenant_left_behind"),
        ("Login", "tenant_left_behind_r_9876543210"),
        ("Schema", "tenant_left_behind_too"),
        ("HbaRule", "tenant_left_behind 203.0.113.99/32"),
        ("HbaRule", "tenant_left_behind_r_0123456789 local"),
    } <= found
    condition = world.api.await_condition(
        "pgs", SERVER_NAME, "", type_="NoOrphans", status="False", reason="OrphansFound"
    )
    assert "docs/orphans.md" in condition["message"]
    with urllib.request.urlopen(f"http://127.0.0.1:{18080 + 10 * SLOT}/metrics", timeout=10) as answer:
        assert f'vaultbrix_server_orphans{{kind="Schema",server="{SERVER_NAME}"}}' in answer.read().decode()

    assert not exists(world, "tenant_left_behind_r_0123456789")
    assert not world.api.get("secret", secret, JOBS)
    assert not world.api.get("networkpolicy", "left-behind", SYSTEM)
    assert "Login tenant_left_behind_r_0123456789" in ended(world)
    assert f"Secret {JOBS}/{secret}" in ended(world)
    # What owns something is locked, and a tenant's login is left to people.
    (owner,) = world.postgres.query(
        "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'tenant_left_behind_r_9876543210'"
    )
    assert owner == (False,)
    assert world.postgres.query("SELECT to_regclass('tenant_left_behind_too.kept') IS NOT NULL") == [(True,)]
    (tenant,) = world.postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'tenant_left_behind'")
    assert tenant == (True,)

    world.postgres.query("DROP SCHEMA tenant_left_behind_too CASCADE")
    world.postgres.hba_file.write_text(content)
    world.postgres.query("ALTER ROLE tenant_left_behind NOLOGIN")
    restart_operator(world)
    wait_for(
        "nothing of it is told", lambda: not any("left_behind" in name for _, name in listed(world)), patience=PATIENCE
    )


def test_a_login_that_is_ended_loses_its_sessions(littered: World, tmp_path: Path) -> None:
    world, login = littered, "tenant_left_behind_r_1111111111"
    world.operator.stop()
    make_login(world, login)
    content = world.postgres.hba_file.read_text()
    # Where nobody enforces anything: an agent ends sessions that no rule lets in.
    world.agent.stop()
    world.postgres.hba_file.write_text(f"local all {login} trust\n{content}")
    world.postgres.query("SELECT pg_reload_conf()")
    held = Process(
        ["psql", "-XAt", "-c", "SELECT pg_sleep(600)", f"host={world.postgres.socket} port={world.postgres.port}"
         f" dbname=postgres user={login}"],
        tmp_path / "held.log",
    )  # fmt: skip
    held.start()

    def sessions() -> int:
        ((count,),) = world.postgres.query("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [login])
        return int(count)

    try:
        wait_for("the session is there", lambda: sessions() == 1, tell=held.text)
        world.operator.start()
        wait_for("the session has ended", lambda: sessions() == 0, patience=PATIENCE)
        wait_for("the login is gone", lambda: not exists(world, login))
    finally:
        held.kill()
        world.postgres.hba_file.write_text(content)
        world.heal()


def test_data_that_was_kept_on_purpose_is_no_orphan(littered: World) -> None:
    world, team = littered, littered.team()
    kept = world.tenant(team, deletionPolicy="Retain").replace("-", "_")
    world.rule(team, kept.replace("_", "-"), "203.0.113.181/32", login="PerRule")
    world.api.delete("tenant", kept.replace("_", "-"), team)
    there = world.tenant(team)
    world.rule(team, there, "203.0.113.182/32", login="PerRule")
    world.postgres.query("CREATE SCHEMA tenant_left_behind_marker")
    restart_operator(world)
    told(world, ("Schema", "tenant_left_behind_marker"))
    assert not {name for _, name in listed(world) if kept in name or there.replace("-", "_") in name}
    assert exists(world, f"tenant_{kept}")


def test_no_verdict_while_there_is_an_object_that_cannot_be_read(littered: World) -> None:
    world, team, login = littered, littered.team(), "tenant_left_behind_r_2222222222"
    crd, path = (
        "accessrules.vaultbrix.com",
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/login/enum",
    )
    later = [{"op": "add", "path": f"{path}/-", "value": "Later"}]
    world.api.kubectl("patch", "crd", crd, "--type=json", "-p", json.dumps(later))
    tenant = world.tenant(team)
    try:
        # As a newer release might have written it.
        wait_for("the API server takes it", lambda: world.rule(team, tenant, "203.0.113.183/32", login="Later"))
        world.operator.stop()
        make_login(world, login)
        world.operator.start()
        wait_for("there is no verdict", lambda: "no verdict on orphans" in world.operator.text(), patience=PATIENCE)
        assert exists(world, login)
        assert world.postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [login]) == [(True,)]
        world.api.kubectl("-n", team, "delete", "accessrules", "--all")
        wait_for("it is ended", lambda: not exists(world, login), patience=PATIENCE)
    finally:
        world.api.kubectl("-n", team, "delete", "accessrules", "--all")
        earlier = [{"op": "remove", "path": f"{path}/2"}]
        world.api.kubectl("patch", "crd", crd, "--type=json", "-p", json.dumps(earlier))


def test_what_others_sweep_up_is_told_too(littered: World) -> None:
    world, team = littered, littered.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.184/32", login="PerRule")
    world.api.await_condition("accessrule", name, team)
    login = world.secret(team, f"{name}-access")["username"]
    lost = str(uuid4())
    world.operator.stop()
    world.api.patch("accessrule", name, team, {"metadata": {"finalizers": None}})
    world.api.delete("accessrule", name, team)
    world.postgres.query(
        "INSERT INTO vaultbrix.ddl_pass(pass_id, role_name, approved_by, expires_at, gated)"
        " VALUES (%s, 'tenant_left_behind', 'jane', now() + interval '1h', '{1}')", [lost],
    )  # fmt: skip
    world.operator.start()
    wait_for(
        "the event says so", lambda: {f"Login {login}", f"Pass {lost}"} <= set(words(ended(world))), patience=PATIENCE
    )
    assert not exists(world, login)
    revoked = world.postgres.query("SELECT revoked_at IS NOT NULL FROM vaultbrix.ddl_pass WHERE pass_id = %s", [lost])
    assert revoked == [(True,)]


def words(text: str) -> list[str]:
    return [part for line in text.splitlines() for part in line.partition(": ")[2].split(", ")]


def test_an_address_that_the_kernel_lets_in_without_a_rule_is_closed_and_told(world: World) -> None:
    saved = run(*world.network.inside("server", ["ipset", "save"])).stdout.splitlines()
    (allowed,) = [line.split()[1] for line in saved if line.startswith("create vbx-allow") and "family inet " in line]
    run(*world.network.inside("server", ["ipset", "add", allowed, "203.0.113.250", "timeout", "600"]))
    wait_for("it is told", lambda: "203.0.113.250" in ended(world), patience=60)
    assert not any("203.0.113.250" in cidr for cidr in world.let_in())
