"""Asking the store with a kubeconfig alone: it is found, and its port forwarded, with the caller's rights.

A real API server decides and proxies. Where a kubelet would be, a server takes its side of port forwarding
(k8s.io/kubelet/pkg/cri/streaming/portforward, websocket.go), since there is no node here.
"""

import asyncio
import json
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web
from tests.harness.audit_store import Store
from tests.harness.command_line import Person
from tests.harness.database import free_port
from tests.harness.kube_http import Object
from tests.harness.shell import run
from tests.harness.world import World, secret, server

PGS = "forwarded"
GET_SERVER = {"apiGroups": ["vaultbrix.com"], "resources": ["postgresservers"], "verbs": ["get", "list"]}
GET_SECRET = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["reader"], "verbs": ["get"]}
GET_SERVICE = {"apiGroups": [""], "resources": ["services"], "verbs": ["get"]}
LIST_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
FORWARD = {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]}
RIGHTS = (GET_SECRET, GET_SERVICE, LIST_PODS, FORWARD)


class Node:
    """The kubelet's side of port forwarding, of every Pod to one port of this machine; counts the connections."""

    def __init__(self, directory: Path, target: int) -> None:
        self.port = free_port()
        self.forwards = 0
        self.target = target
        certificate = directory / "node.pem"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
            "/CN=node", "-keyout", certificate, "-out", directory / "node.crt")  # fmt: skip
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(directory / "node.crt", certificate)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Serve from a thread of its own."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    def stop(self) -> None:
        """End that thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/portForward/{namespace}/{pod}", self._forward)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self._context).start()

    async def _forward(self, request: web.Request) -> web.WebSocketResponse:
        self.forwards += 1
        port = struct.pack("<H", int(request.query["port"]))
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        await socket.send_bytes(b"\0" + port)
        await socket.send_bytes(b"\1" + port)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError as error:
            await socket.send_bytes(b"\1" + f"error forwarding port: {error}".encode())
            await socket.close()
            return socket

        async def answers() -> None:
            while data := await reader.read(65536):
                await socket.send_bytes(b"\0" + data)
            await socket.close()

        answering = asyncio.create_task(answers())
        async for message in socket:
            if message.type is WSMsgType.BINARY and message.data[0] == 0:
                writer.write(message.data[1:])
        answering.cancel()
        writer.close()
        return socket


@pytest.fixture(scope="module")
def node(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("node"), store.postgres.port)
    node.start()
    yield node
    node.stop()


@pytest.fixture
def team(alone: World, store: Store, node: Node) -> Iterator[str]:
    """A namespace with a store that is reached by its Pod alone."""
    world, team = alone, alone.team()
    # The certificate of the store is for localhost, which as a Service's name is one like any other.
    world.api.apply(secret(team, "reader", {**store.reader, "host": "localhost", "port": "5432"}, for_servers=PGS))
    world.api.apply(server(PGS, auditSecretRef={"name": "reader", "namespace": team}))
    ports = [{"name": "postgresql", "port": 5432, "targetPort": "postgresql"}]
    spec = {"selector": {"app": "store"}, "ports": ports}
    world.api.apply(_object("Service", "localhost", team, spec=spec))
    world.api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"}})
    endpoint = {"daemonEndpoints": {"kubeletEndpoint": {"Port": node.port}}}
    addresses = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], **endpoint}
    _status(world, "node", "here", "", addresses)
    container = {"name": "db", "image": "none", "ports": [{"name": "postgresql", "containerPort": store.postgres.port}]}
    pod = _object("Pod", "store-0", team, spec={"nodeName": "here", "containers": [container]})
    world.api.apply({**pod, "metadata": {**pod["metadata"], "labels": {"app": "store"}}})
    ready(world, team, "True")
    yield team
    world.api.kubectl("-n", team, "delete", "pod", "store-0", "--force", "--grace-period=0", check=False)
    world.api.delete("pgs", PGS, "")


def _object(kind: str, name: str, namespace: str, **fields: object) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **fields}


def _status(world: World, kind: str, name: str, namespace: str, status: Object) -> None:
    where = ("-n", namespace) if namespace else ()
    patch = json.dumps({"status": status})
    world.api.kubectl(*where, "patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)


def ready(world: World, team: str, status: str) -> None:
    """Have the store's Pod be ready, or not."""
    condition = {"type": "Ready", "status": status}
    _status(world, "pod", "store-0", team, {"phase": "Running", "conditions": [condition]})


def person(world: World, team: str, *rules: Object) -> Person:
    """Somebody with these rights in the namespace of the store, who may look at PostgresServers."""
    somebody = Person.of(world, team, *rules)
    rbac, name = "rbac.authorization.k8s.io", f"looks-at-servers-{team}"
    world.api.apply(
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": [GET_SERVER]}
    )
    world.api.apply(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "person", "namespace": team}],
        }
    )
    return somebody


def test_the_store_is_asked_with_a_kubeconfig_alone_by_a_forward_for_each_connection(
    alone: World, team: str, node: Node, store: Store
) -> None:
    auditor = person(alone, team, *RIGHTS)
    for asked in ("query", "approvals", "stats"):
        before = node.forwards
        done = auditor.types("audit", asked, "--of", PGS)
        assert (done.returncode, done.stderr) == (0, "")
        assert node.forwards == before + 1


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        (
            GET_SECRET,
            "you may not read Secret {team}/reader, the reader of the audit store of PostgresServer forwarded; ask",
        ),
        (GET_SERVICE, "you may not read Service {team}/localhost of the audit store; ask for verb get on it"),
        (LIST_PODS, "you may not list Pods in namespace {team}; ask for verb list on pods there"),
        (FORWARD, "you may not forward a port of Pod {team}/store-0; ask for verbs get and create on pods/portforward"),
    ],
    ids=["Secret", "Service", "Pods", "port"],
)
def test_a_right_that_lacks_is_named(alone: World, team: str, lacking: Object, told: str) -> None:
    auditor = person(alone, team, *(right for right in RIGHTS if right is not lacking))
    done = auditor.types("audit", "query", "--of", PGS)
    assert done.returncode == 1
    assert told.format(team=team) in done.stderr
    assert "--store" in done.stderr


def test_no_such_server_and_no_pod_that_is_ready_are_told_with_what_to_look_at(alone: World, team: str) -> None:
    auditor = person(alone, team, *RIGHTS)
    done = auditor.types("audit", "query", "--of", "mian")
    assert (done.returncode, "there is no PostgresServer mian; see: kubectl get pgs" in done.stderr) == (1, True)
    ready(alone, team, "False")
    done = auditor.types("audit", "query", "--of", PGS)
    assert done.returncode == 1
    assert (
        f"no Pod of the audit store is ready (Service {team}/localhost); see: kubectl -n {team} get pods" in done.stderr
    )


def test_a_store_that_listens_no_more_is_told_as_its_node_tells_it(
    alone: World, team: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    auditor = person(alone, team, *RIGHTS)
    monkeypatch.setattr(node, "target", free_port())
    done = auditor.types("audit", "query", "--of", PGS)
    assert done.returncode == 1
    assert "error: audit store: error forwarding port:" in done.stderr


@pytest.mark.parametrize("form", ["uri", "conninfo"])
def test_store_says_where_it_is_by_libpqs_means(alone: World, store: Store, form: str) -> None:
    login, ca = store.reader, store.postgres.authority
    places = {
        "uri": f"postgresql://{login['username']}:{login['password']}@localhost:{login['port']}/audit"
        f"?sslmode=verify-full&sslrootcert={ca}",
        "conninfo": f"host=localhost port={login['port']} user={login['username']} password={login['password']} "
        f"sslmode=verify-full sslrootcert={ca}",
    }
    done = Person(Path("/nonexistent")).types("audit", "query", "--store", places[form])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_store_that_is_no_conninfo_is_told_so() -> None:
    done = Person(Path("/nonexistent")).types("audit", "query", "--store", "no such thing")
    assert done.returncode == 2
    assert "error: --store" in done.stderr
