"""Trusted sources: Pods by their own addresses, the admin from there alone, and no rule for any of them."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from tests.harness.direct_access import held_session, is_reset
from tests.harness.network import MACHINE, SERVER
from tests.harness.shell import run, wait_for
from tests.harness.world import ADMIN_PASSWORD, PORT, SYSTEM, World, rule, server

from vaultbrix.agent.pods import PodAddresses, PodSource
from vaultbrix.kube.client import Kube

POD, LABELS = "203.0.113.170", {"app": "exporter"}
OTHER = "203.0.113.171"


@pytest.fixture
def trusting(world: World) -> Iterator[World]:
    """The server trusts Pods with the labels, beside what it always trusts."""
    pods = [{"namespace": SYSTEM, "selector": LABELS}]
    world.api.apply(server(trusted={"addresses": [MACHINE], "pods": pods}))
    yield world
    world.api.kubectl("-n", SYSTEM, "delete", "pods", "-l", "app", "--force", "--grace-period=0")
    world.api.apply(server())


def pod(
    world: World, name: str, address: str, labels: dict[str, str], *, phase: str = "Running", **spec: object
) -> None:
    """A Pod as a kubelet would report it."""
    metadata = {"name": name, "namespace": SYSTEM, "labels": labels}
    containers = [{"name": "main", "image": "none"}]
    world.api.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **spec}}
    )
    status = {"phase": phase, "podIP": address, "podIPs": [{"ip": address}]}
    patch = ("patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    world.api.kubectl("-n", SYSTEM, *patch)


def admin(world: World, address: str, certificate_of: str = "postgres") -> str:
    """What the admin is told from an address, with the client certificate of a login, or with none."""
    world.network.client(address)
    files = {}
    if certificate_of:
        issued = world.postgres.client_certificate(certificate_of)
        files = {"PGSSLCERT": world.directory / "admin.crt", "PGSSLKEY": world.directory / "admin.key"}
        for path, text in zip(files.values(), issued.values(), strict=True):
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_text(text)
    command = [
        "psql",
        "-XAt",
        f"host={SERVER} port={PORT} dbname=postgres user=postgres sslmode=require",
        "-c",
        "SELECT 1",
    ]
    environment = {"PGPASSWORD": ADMIN_PASSWORD, "PGCONNECT_TIMEOUT": "5", **{k: str(p) for k, p in files.items()}}
    done = run(*world.network.inside(address, command), check=False, env=environment)
    return done.stdout.strip() or done.stderr


def test_a_trusted_pod_gets_in_by_its_own_address_while_it_lives_also_without_an_operator(trusting: World) -> None:
    world = trusting
    pod(world, "other", OTHER, {"app": "something-else"})
    pod(world, "on-node", OTHER, LABELS, hostNetwork=True)
    assert is_reset(world, POD)
    world.operator.kill()
    pod(world, "exporter", POD, LABELS)
    wait_for("the Pod gets in", lambda: admin(world, POD) == "1", patience=60, tell=world.agent.text)
    for certificate_of in ("", "tenant_acme"):
        assert "FATAL" in admin(world, POD, certificate_of), "the password alone is not enough"
    assert is_reset(world, OTHER), "it has not the labels, or is on its node's network"
    pod(world, "exporter", POD, LABELS, phase="Succeeded")
    wait_for("a Pod that has ended does not", lambda: is_reset(world, POD), patience=60, tell=world.agent.text)


def test_trusted_pods_stay_trusted_while_the_agent_restarts_without_an_api_server(trusting: World) -> None:
    world = trusting
    pod(world, "exporter", POD, LABELS)
    wait_for("the Pod gets in", lambda: admin(world, POD) == "1", patience=60, tell=world.agent.text)
    world.api.pause()
    try:
        world.agent.kill()
        world.agent.start()
        wait_for("the agent is closed by default", lambda: is_reset(world, OTHER), patience=60)
        wait_for("the Pod gets in", lambda: admin(world, POD) == "1", patience=60, tell=world.agent.text)
    finally:
        world.api.resume()


def test_the_admin_is_let_in_from_trusted_sources_alone(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, "203.0.113.172/32")
    world.api.await_condition("accessrule", name, team)
    assert world.psql("203.0.113.172", team, tenant, "SELECT 1").works()
    assert "pg_hba.conf rejects connection" in admin(world, "203.0.113.172")


def test_a_rule_is_rejected_with_its_session_once_the_server_trusts_its_address(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    name = world.rule(team, tenant, f"{MACHINE}/32")
    found = world.api.await_condition(
        "accessrule", name, team, type_="Accepted", status="False", reason="TrustedSource"
    )
    assert MACHINE in found["message"]
    assert "spec.trusted" in found["message"]
    name = world.rule(team, tenant, "203.0.113.173/32")
    world.api.await_condition("accessrule", name, team)
    session = held_session(world, "203.0.113.173", team, tenant, "trusted")
    world.api.apply(server(trusted={"addresses": [MACHINE, "203.0.113.173"]}))
    try:
        world.api.await_condition("accessrule", name, team, type_="Ready", status="False", reason="TrustedSource")
        wait_for("the session is ended", lambda: not session.running, patience=60, tell=world.agent.text)
    finally:
        world.api.apply(server())
    world.api.apply(rule(team, name, tenant, "203.0.113.173/32", revoked=True))


def test_pods_that_the_agent_may_not_list_keep_nobody_else_trusted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(world.api.user("an-agent-without-rights")))

    async def known() -> frozenset[str] | None:
        kube, heard = await Kube.connect("test"), asyncio.Event()
        pods = PodAddresses(kube, heard.set)
        pods.follow([PodSource(SYSTEM, "app=exporter")])
        try:
            assert pods.known is None
            await asyncio.wait_for(heard.wait(), 30)
            return pods.known
        finally:
            pods.follow([])
            await kube.close()

    assert asyncio.run(known()) == frozenset()
