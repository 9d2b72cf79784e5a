"""A PostgresServer leads no Secret anywhere that does not say itself that it is for that server."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.harness.apiserver import ApiServer
from tests.harness.shell import wait_for
from tests.harness.world import FOR_SERVER, SERVER_NAME, SYSTEM, World, secret, server

from vaultbrix.install.bootstrap import Release, make_secrets
from vaultbrix.kube.client import Kube

PASSWORD = "somebody-else's-password-that-is-long-enough"


class Listener:
    """A host that somebody leads the operator to; it counts who comes, and talks to nobody."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.callers = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.callers += 1
            connection.close()

    def close(self) -> None:
        # Closing alone does not wake up who waits in accept.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    found.close()


@contextmanager
def served(world: World, name: str, **spec: Any) -> Iterator[str]:
    """Another PostgresServer, as long as the context lasts."""
    world.api.apply(server(name, **spec))
    try:
        yield name
    finally:
        world.api.delete("pgs", name)


def told(world: World, name: str, type_: str = "Ready", status: str = "False") -> str:
    found = world.api.await_condition(
        "pgs", name, "", type_=type_, status=status, reason="SecretNotForServer", patience=90
    )
    return str(found["message"])


def say_so(world: World, message: str) -> None:
    """Run the command that a condition names."""
    command = message[message.index("kubectl ") :].split()
    assert command[3:5] == ["label", "secret"]
    world.api.kubectl(*command[1:])


def test_a_secret_that_is_not_for_the_server_is_led_to_no_host(world: World, listener: Listener) -> None:
    world.api.apply(secret(SYSTEM, "others", {"username": "postgres", "password": PASSWORD}))
    reference = {"name": "others", "namespace": SYSTEM}
    lured = {"host": "127.0.0.1", "port": listener.port, "tls": {"mode": "require"}, "adminSecretRef": reference}
    with served(world, "lured", **lured, auditSecretRef=None) as name:
        message = told(world, name)
        assert message.startswith(f"spec.adminSecretRef: Secret {SYSTEM}/others is not used")
        assert FOR_SERVER in message
        team = world.team()
        tenant = world.tenant(team, wait=False, serverRef={"name": name})
        world.api.await_condition("tenant", tenant, team, status="False", reason="ServerNotReady")
        assert listener.callers == 0
        say_so(world, message)
        # Whoever may write the Secret has said so.
        wait_for("the operator connects", lambda: listener.callers > 0, patience=60)
        assert PASSWORD not in str(world.api.get("pgs", name)) + world.operator.text()
        world.api.delete("tenant", tenant, team)


def test_a_secret_that_loses_the_label_is_used_no_more_and_again_with_it(world: World) -> None:
    world.server("relabelled")
    world.api.await_condition("pgs", "relabelled", "")
    for name, field in (("pg-admin", "spec.adminSecretRef"), ("pg-ca", "spec.tls.caSecretRef")):
        # For the other servers it still is.
        world.api.kubectl("-n", SYSTEM, "label", "--overwrite", "secret", name, f"{FOR_SERVER}={SERVER_NAME}")
        message = told(world, "relabelled")
        assert message.startswith(f"{field}: Secret {SYSTEM}/{name} is not used")
        assert message.endswith(f"{FOR_SERVER}={SERVER_NAME}.relabelled --overwrite")
        say_so(world, message)
        world.api.await_condition("pgs", "relabelled", "", patience=60)
    assert world.api.condition("pgs", SERVER_NAME, "Ready")["status"] == "True"
    world.api.delete("pgs", "relabelled")


def test_the_logins_of_the_audit_store_are_led_nowhere_either(world: World) -> None:
    login = world.store.login("manager", "audit_manage")
    world.api.apply(secret(SYSTEM, "reader-of-others", world.store.reader))
    world.api.apply(secret(SYSTEM, "manager-of-others", login))
    world.server(
        "unaudited",
        auditSecretRef={"name": "reader-of-others", "namespace": SYSTEM},
        auditManagerSecretRef={"name": "manager-of-others", "namespace": SYSTEM},
    )
    try:
        for type_, field in (
            ("AuditFlowing", "spec.auditSecretRef"),
            ("AuditRetentionApplied", "spec.auditManagerSecretRef"),
        ):
            message = told(world, "unaudited", type_)
            assert f"{field}: Secret" in message
            say_so(world, message)
            wait_for(
                "the store is asked",
                lambda type_=type_: world.api.condition("pgs", "unaudited", type_)["reason"] != "SecretNotForServer",
                patience=90,
            )
    finally:
        world.api.delete("pgs", "unaudited")


@pytest.mark.parametrize("key", ["password", "tls.key"])
def test_the_key_of_the_ca_hands_out_no_other_content_of_a_secret(world: World, key: str) -> None:
    world.server(
        "keyed", tls={"mode": "verify-ca", "caSecretRef": {"name": "pg-admin", "namespace": SYSTEM, "key": key}}
    )
    team = world.team()
    tenant = world.tenant(team, wait=False, serverRef={"name": "keyed"})
    try:
        found = world.api.await_condition("pgs", "keyed", "", status="False", reason="SecretInvalid")
        assert f"in key {key}" in found["message"]
        world.api.await_condition("tenant", tenant, team, status="False", reason="ServerNotReady")
        assert not world.secret(team, f"{tenant}-db")
        content = world.secret(SYSTEM, "pg-admin")[key]
        assert content not in found["message"] + world.operator.text()
    finally:
        world.api.delete("tenant", tenant, team)
        world.api.delete("pgs", "keyed")


def test_the_chart_says_which_servers_its_secrets_are_for_and_keeps_what_others_said(
    api_alone: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_alone.kubeconfig))
    namespace = api_alone.namespace("labelled")

    async def make(*servers: str) -> None:
        kube = await Kube.connect("tests")
        try:
            await make_secrets(kube, Release(namespace, "vaultbrix", ("postgresql",), ("audit",), servers))
        finally:
            await kube.close()

    def labels() -> dict[str, str]:
        found = api_alone.request("GET", f"/api/v1/namespaces/{namespace}/secrets")["items"]
        return {
            one["metadata"]["name"].removeprefix("vaultbrix-"): one["metadata"]["labels"][FOR_SERVER]
            for one in found
            if FOR_SERVER in one["metadata"].get("labels", {})
        }

    asyncio.run(make("main", "db1"))
    own = {"postgresql-admin": "main", "postgresql-tls": "main"}
    assert labels() == {**own, "audit-reader": "main.db1", "audit-manager": "main.db1"}, "and no other: not the CA's"
    api_alone.kubectl(
        "-n", namespace, "label", "--overwrite", "secret", "vaultbrix-audit-reader", f"{FOR_SERVER}=theirs"
    )
    # Of an earlier release.
    api_alone.kubectl("-n", namespace, "label", "secret", "vaultbrix-postgresql-admin", f"{FOR_SERVER}-")
    long = [f"a-server-with-a-long-name-{number}" for number in range(3)]
    asyncio.run(make("main", *long))
    found = labels()
    assert found["postgresql-admin"] == "main"
    assert found["audit-reader"] == f"theirs.main.{long[0]}", "as many as there is room for"
