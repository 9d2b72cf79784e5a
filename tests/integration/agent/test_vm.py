"""Agent and shipper on a machine of their own, with the users, folders, units and rights of manifests/."""

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from tests.harness.machine import ADDRESS, AGENT, AGENT_NAME, CLUSTER, SERVER_NAME, SHIPPER, Machine
from tests.harness.processes import Process
from tests.harness.shell import TOP, binaries, run, wait_for
from tests.harness.systemd_units import Unit
from tests.harness.world import ADMIN_PASSWORD, EVE, JANE, SYSTEM, Psql, World, rule, secret

RIGHTS = TOP / "manifests/vm-agent-rbac.yaml"
# Of the manifest: where the agent's Lease is, and its name.
LEASES, LEASE = "vaultbrix-system", f"{SERVER_NAME}-{AGENT_NAME}"
# linux/capability.h
CAPABILITIES = {"CAP_DAC_READ_SEARCH": 2, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}


class Site:
    """The machine with everything on it running, and a team whose tenants live there."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.team = world.team()

    def tenant(self) -> str:
        return self.world.tenant(self.team, serverRef={"name": SERVER_NAME})

    def psql(self, address: str, tenant: str, statement: str = "SELECT 1") -> Psql:
        return self.world.psql(address, self.team, tenant, statement, host=ADDRESS, network=self.machine.network)

    def held(self, address: str, tenant: str) -> Process:
        """An open session that sleeps."""
        session = self.psql(address, tenant, "SELECT pg_sleep(600)").hold(
            self.machine.agent.log.with_name(f"{tenant}.out")
        )
        wait_for("the session is open", lambda: self.sessions(address), tell=session.text)
        return session

    def sessions(self, address: str) -> int:
        ((count,),) = self.machine.postgres.query(
            "SELECT count(*) FROM pg_stat_activity WHERE client_addr = %s", [address]
        )
        return int(count)


def credentials(world: World, agent: str, path: Path) -> str:
    """Have hack/vm-kubeconfig make a kubeconfig; returns what it says."""
    environment = {"KUBECONFIG": str(world.api.kubeconfig), "PATH": f"{binaries()}:{os.environ['PATH']}"}
    with world.api.signing():
        return run(TOP / "hack/vm-kubeconfig", agent, path, env=environment).stdout


@pytest.fixture(scope="module")
def kubeconfig(running: World) -> Path:
    """The agent's credentials, with the rights of the manifest."""
    running.api.namespace(LEASES)
    # The release's own, with which its policies are read.
    release = [d for d in yaml.safe_load_all((TOP / "manifests/install.yaml").read_text()) if d]
    roles = [d for d in release if d["kind"].endswith("Role") and d["metadata"]["name"] == "vaultbrix-admission"]
    assert len(roles) == 2
    running.api.kubectl("apply", "-f", "-", input_text=yaml.safe_dump_all(roles))
    running.api.kubectl("apply", "-f", str(RIGHTS))
    path = running.directory / "vm-agent.kubeconfig"
    credentials(running, AGENT_NAME, path)
    return path


@pytest.fixture(scope="module")
def machine(running: World, kubeconfig: Path) -> Iterator[Machine]:
    """The machine from its first boot to its end."""
    made = Machine(running.directory / "machine")
    try:
        made.install(kubeconfig, made.kubeconfig, AGENT.value("User"))
        for source in running.store.secret.iterdir():
            made.install(source, made.store / source.name, SHIPPER.value("User"))
        running.store.bind(SERVER_NAME)
        host = running.directory / "store-host"
        host.write_text("postgres.test")
        made.install(host, made.store / "host", SHIPPER.value("User"))
        made.agent.start()
        wait_for(
            "the agent has closed the port", lambda: "closed by default" in made.agent.text(), tell=made.agent.text
        )
        made.postgres.start()
        made.postgres.set_password(ADMIN_PASSWORD)
        made.shipper.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def site(world: World, machine: Machine) -> Iterator[Site]:
    """PostgreSQL of the machine as a server of the cluster, outside of which it is: no namespace, no podSelector."""
    authority = {"ca.crt": machine.postgres.authority.read_text()}
    world.api.apply(secret(SYSTEM, "vm-ca", authority, for_servers=SERVER_NAME))
    world.server(
        SERVER_NAME,
        host=ADDRESS,
        publicEndpoint={"host": ADDRESS},
        tls={"mode": "verify-ca", "caSecretRef": {"name": "vm-ca", "namespace": SYSTEM}},
        namespace=None,
        podSelector=None,
        trusted={"addresses": [CLUSTER]},
    )
    for process in (machine.agent, machine.shipper):
        if not process.running:
            process.start()
    world.api.await_condition("pgs", SERVER_NAME, "", patience=60)
    return Site(world, machine)


def test_a_rule_opens_for_its_address_alone_and_is_revoked_with_its_session(site: Site) -> None:
    tenant = site.tenant()
    jane, eve = site.psql(JANE, tenant), site.psql(EVE, tenant)
    assert "Connection refused" in jane.run().stderr
    name = site.world.rule(site.team, tenant, f"{JANE}/32")
    wait_for("jane connects", jane.works, tell=lambda: jane.run().stderr + site.machine.agent.text()[-3000:])
    assert "Connection refused" in eve.run().stderr
    site.world.api.await_condition("accessrule", name, site.team)
    (told,) = site.world.api.get("accessrule", name, site.team)["status"]["agents"]
    assert (told["name"], told["kernel"], told["hba"]) == (AGENT_NAME, True, True)
    session = site.held(JANE, tenant)
    site.world.api.apply(rule(site.team, name, tenant, f"{JANE}/32", revoked=True))
    wait_for("the session has ended", lambda: not session.running)
    assert "Connection refused" in jane.run().stderr


def test_a_rule_expires_with_its_session(site: Site) -> None:
    tenant = site.tenant()
    name = site.world.rule(site.team, tenant, "203.0.113.50/32", ttl="6s")
    psql = site.psql("203.0.113.50", tenant)
    wait_for("it connects", psql.works)
    session = site.held("203.0.113.50", tenant)
    text = site.world.api.get("accessrule", name, site.team)["status"]["expiresAt"]
    wait_for("the session has ended", lambda: not session.running, pause=0.01)
    assert time.time() >= datetime.fromisoformat(text).timestamp(), "ended early"
    assert "Connection refused" in psql.run().stderr


def test_an_agent_without_credentials_closes_the_port_and_keeps_deadlines(site: Site) -> None:
    tenant = site.tenant()
    site.world.rule(site.team, tenant, "203.0.113.51/32", ttl="10s")
    psql = site.psql("203.0.113.51", tenant)
    wait_for("it connects", psql.works)
    site.machine.agent.kill()
    kept = site.machine.kubeconfig.rename(site.machine.kubeconfig.with_suffix(".kept"))
    try:
        site.machine.agent.start()
        session = site.held("203.0.113.51", tenant)
        wait_for("the session has ended", lambda: not session.running)
        assert "Connection refused" in psql.run().stderr
    finally:
        kept.rename(site.machine.kubeconfig)


def test_the_shipper_stores_what_a_tenant_ran_with_the_person(site: Site) -> None:
    tenant = site.tenant()
    site.world.rule(site.team, tenant, "203.0.113.52/32")
    psql = site.psql("203.0.113.52", tenant, "SELECT 'from the machine'")
    wait_for("it connects", psql.works)
    stored = wait_for(
        "the statement is stored",
        lambda: site.world.store.query(
            "SELECT person, server FROM audit.record WHERE statement LIKE '%%from the machine%%' AND person IS NOT NULL"
        ),
        tell=site.machine.shipper.text,
    )
    assert set(stored) == {("jane@example.com", SERVER_NAME)}


@pytest.mark.parametrize("unit", [AGENT, SHIPPER], ids=["agent", "shipper"])
def test_a_process_has_the_user_and_the_capabilities_of_its_unit_and_no_more(site: Site, unit: Unit) -> None:
    process = site.machine.agent if unit is AGENT else site.machine.shipper
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    status = {name: values.split() for name, _, values in (line.partition(":") for line in lines)}
    named = unit.value("AmbientCapabilities").split()
    assert unit.value("CapabilityBoundingSet").split() == named
    # Beside the unit's: reading, where the tests' interpreter lies in a folder of root's.
    mask = sum(1 << CAPABILITIES[name] for name in named) | 1 << CAPABILITIES["CAP_DAC_READ_SEARCH"]
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[kind][0], 16) & ~mask == 0
    assert set(status["Uid"]).isdisjoint({"0"})
    assert set(status["Gid"]).isdisjoint({"0"})
    assert "0" not in status["Groups"]
    assert status["NoNewPrivs"] == ["1"]


def test_each_user_reaches_its_own_files_and_no_others(site: Site) -> None:
    machine = site.machine
    agent, shipper = AGENT.value("User"), SHIPPER.value("User")
    log = next(machine.file("/var/log/vaultbrix").glob("*.json"))
    hba, grants = machine.file("/etc/vaultbrix/hba/pg_hba.conf"), machine.file("/var/lib/vaultbrix/grants.json")
    flow = machine.file("/var/lib/vaultbrix-audit/flow.json")
    wait_for("the agent has written both", lambda: grants.exists() and "VAULTBRIX" in hba.read_text())
    wait_for("the shipper has written its own", flow.exists)
    reads = {
        log: {shipper},
        grants: {agent, shipper},
        flow: {agent, shipper},
        hba: {agent, "postgres"},
        machine.kubeconfig: {agent},
        machine.store / "password": {shipper},
    }
    for path, readers in reads.items():
        may = {user for user in (agent, shipper, "nobody") if machine.as_user(user, "cat", str(path))}
        assert may == readers - {"postgres"}, path
    for user in (shipper, "postgres", "nobody"):
        for folder in (hba.parent, grants.parent):
            assert not machine.as_user(user, "touch", str(folder / "new")), f"{user} writes to {folder}"
    # The shipper removes files that are stored.
    for folder, user in ((log.parent, agent), (log.parent, "nobody"), (flow.parent, agent)):
        assert not machine.as_user(user, "touch", str(folder / "new")), f"{user} writes to {folder}"
    assert not machine.as_user(shipper, "sh", "-c", f">> {log}"), "it may remove a file, not write one"
    assert machine.as_user(agent, "touch", str(hba))


def can(world: World, kubeconfig: Path, *question: str) -> bool:
    """The API server's own answer."""
    said = run(
        binaries() / "kubectl", "--kubeconfig", kubeconfig, "auth", "can-i", *question, check=False
    ).stdout.strip()  # fmt: skip
    assert said.splitlines()[-1:] in (["yes"], ["no"]), said
    return said.endswith("yes")


ALLOWED = [
    *((verb, f"{kind}.vaultbrix.com", "-A") for verb in ("get", "list", "watch")
      for kind in ("accessrules", "tenants", "postgresservers", "ddlapprovals")),
    ("patch", "accessrules.vaultbrix.com", "--subresource=status", "-A"),
    ("patch", "postgresservers.vaultbrix.com", "--subresource=status"),
    ("create", "events", "-n", "default"),
    ("create", "leases.coordination.k8s.io", "-n", LEASES),
    ("patch", f"leases.coordination.k8s.io/{LEASE}", "-n", LEASES),
    ("patch", f"configmaps/vaultbrix-anchors-{SERVER_NAME}", "-n", LEASES),
    ("get", "configmaps/vaultbrix-admission", "-n", LEASES),
    ("get", "validatingadmissionpolicies.admissionregistration.k8s.io/vaultbrix-decisions"),
]  # fmt: skip

REFUSED = [
    ("patch", "configmaps/vaultbrix-admission", "-n", LEASES),
    ("patch", "configmaps/vaultbrix-anchors-main", "-n", LEASES),
    ("patch", "validatingadmissionpolicies.admissionregistration.k8s.io/vaultbrix-decisions"),
    *((verb, "secrets", "-n", where) for verb in ("get", "list", "watch", "create") for where in (SYSTEM, LEASES)),
    *((verb, f"{kind}.vaultbrix.com", "-A") for verb in ("create", "update", "patch", "delete")
      for kind in ("accessrules", "tenants", "postgresservers", "ddlapprovals")),
    *((verb, f"{kind}.vaultbrix.com", "--subresource=status", "-A") for verb in ("update", "patch")
      for kind in ("tenants", "ddlapprovals")),
    ("approve", "ddlapprovals.vaultbrix.com", "-A"),
    ("patch", "leases.coordination.k8s.io/vaultbrix-operator", "-n", LEASES),
    ("update", "leases.coordination.k8s.io/vaultbrix-operator", "-n", LEASES),
    ("get", "leases.coordination.k8s.io/vaultbrix-operator", "-n", LEASES),
    ("create", "leases.coordination.k8s.io", "-n", SYSTEM),
    ("delete", f"leases.coordination.k8s.io/{LEASE}", "-n", LEASES),
    ("create", "events", "-n", SYSTEM),
    ("list", "events", "-A"),
    ("get", "pods", "-A"),
    ("create", "pods/exec", "-A"),
    ("get", "configmaps", "-A"),
    ("list", "namespaces"),
    ("get", "nodes"),
    ("patch", "networkpolicies.networking.k8s.io", "-A"),
    ("create", "jobs.batch", "-A"),
    ("create", "certificatesigningrequests.certificates.k8s.io"),
    ("create", "serviceaccounts", "--subresource=token", "-n", LEASES),
    ("impersonate", "users"),
    ("*", "*", "-A"),
]  # fmt: skip


@pytest.mark.parametrize("question", ALLOWED, ids=" ".join)
def test_the_credentials_suffice_for_what_an_agent_does(
    world: World, kubeconfig: Path, question: tuple[str, ...]
) -> None:
    assert can(world, kubeconfig, *question)


@pytest.mark.parametrize("question", REFUSED, ids=" ".join)
def test_the_credentials_allow_nothing_else(world: World, kubeconfig: Path, question: tuple[str, ...]) -> None:
    assert not can(world, kubeconfig, *question)


def test_an_agent_that_turned_bad_reads_no_secret_and_opens_nothing(site: Site, kubeconfig: Path) -> None:
    tenant = site.tenant()
    name = site.world.rule(site.team, tenant, f"{JANE}/32", ttl="1h")

    def tried(*arguments: str, text: str | None = None) -> str:
        done = run(binaries() / "kubectl", "--kubeconfig", kubeconfig, *arguments, check=False, input_text=text)
        assert done.returncode, done.stdout
        return done.stderr

    assert "Forbidden" in tried("-n", site.team, "get", "secret", f"{tenant}-db")
    longer = json.dumps({"spec": {"ttl": "100h"}})
    assert "Forbidden" in tried("-n", site.team, "patch", "accessrule", name, "--type=merge", "-p", longer)
    another = json.dumps(rule(site.team, "mine", tenant, f"{EVE}/32"))
    assert "Forbidden" in tried("create", "-f", "-", text=another)


def test_a_token_of_the_service_account_has_the_same_rights(world: World, kubeconfig: Path) -> None:
    token = world.api.kubectl("-n", LEASES, "create", "token", f"vaultbrix-vm-agent-{AGENT_NAME}").strip()
    other = kubeconfig.with_name("vm-token.kubeconfig")
    told = json.loads(world.api.kubectl("config", "view", "--raw", "-o", "json"))
    told["users"] = [{"name": "test", "user": {"token": token}}]
    other.write_text(json.dumps(told))
    assert can(world, other, "patch", "accessrules.vaultbrix.com", "--subresource=status", "-A")
    assert can(world, other, "patch", f"leases.coordination.k8s.io/{LEASE}", "-n", LEASES)
    assert not can(world, other, "get", "secrets", "-n", LEASES)
    assert not can(world, other, "patch", "accessrules.vaultbrix.com", "-A")


def test_credentials_are_made_for_one_agent_alone_and_leave_no_request_behind(world: World, tmp_path: Path) -> None:
    said = credentials(world, "db2", tmp_path / "kubeconfig")
    assert "vaultbrix:agent:db2" in said
    assert "valid until" in said
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o777 == 0o600
    assert "db2" not in world.api.kubectl("get", "csr")
    assert not can(world, tmp_path / "kubeconfig", "list", "accessrules.vaultbrix.com", "-A"), "nobody bound it yet"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ([], "usage"),
        (["db1"], "usage"),
        (["../db1", "file"], "AGENT '../db1'"),
        (["db1/O=system:masters", "file"], "AGENT"),
        (["db1", "file", "forever"], "DAYS 'forever'"),
    ],
)
def test_a_name_that_is_none_makes_no_credentials(tmp_path: Path, arguments: list[str], remedy: str) -> None:
    done = run("env", "-C", tmp_path, TOP / "hack/vm-kubeconfig", *arguments, check=False)
    assert done.returncode == 1
    assert remedy in done.stderr
    assert list(tmp_path.iterdir()) == []
