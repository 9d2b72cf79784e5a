"""Everything of the product at once, as processes: API server, PostgreSQL, operator, agent, audit store and shipper."""

import base64
import itertools
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.harness.apiserver import ApiServer
from tests.harness.audit_store import Store
from tests.harness.kube_http import Object
from tests.harness.network import MACHINE, SERVER, SERVER6, Network
from tests.harness.postgres import PORT, Postgres
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import run, wait_for
from tests.harness.slot import SLOT, folder

SYSTEM, JOBS = "vaultbrix-test", "vaultbrix-test-jobs"
SERVER_NAME = "main"
ANCHORS = f"vaultbrix-anchors-{SERVER_NAME}"
LONGEST_LABEL = 63
FOR_SERVER = "vaultbrix.com/for-postgresserver"
ECHO_PORT = 5434
METRICS_PORT = 18083 + 10 * SLOT
ADMIN_PASSWORD = "the-admin's-password"
JANE, EVE = "203.0.113.7", "198.51.100.9"


class World:
    """The parts, and short ways to do with them what users do."""

    def __init__(self) -> None:
        self.directory = folder()
        self.log_disk.mkdir()
        self.network = Network()
        self.api = ApiServer(self.directory / "api")
        self.postgres = Postgres(
            self.directory / "postgres",
            prefix=self.network.inside("server", []),
            names=[SERVER, SERVER6],
            settings={"ssl_ca_file": str(self.directory / "postgres/ca.crt")},
        )
        self.store = Store(self.directory / "store", listen=f"127.0.0.1,{MACHINE}")
        environment = {"KUBECONFIG": str(self.api.kubeconfig), "POD_NAMESPACE": SYSTEM, "VAULTBRIX_IMAGE": "none"}
        self.operator = Process(
            [*VAULTBRIX, "operator", "--identity=test", f"--probe-port={18080 + 10 * SLOT}"],
            self.directory / "operator.log",
            env=environment,
        )
        self.agent = Process(
            self.network.inside(
                "server",
                [
                    *VAULTBRIX,
                    "agent",
                    f"--server={SERVER_NAME}",
                    "--name=agent-1",
                    f"--hba-file={self.postgres.hba_file}",
                    f"--state-file={self.grants}",
                    f"--socket-directory={self.postgres.socket}",
                    f"--port={PORT}",
                    f"--echo-port={ECHO_PORT}",
                    f"--flow-file={self.flow}",
                    "--admin=postgres",
                    "--admin-certificate",
                    f"--certificate-file={self.postgres.certificate}",
                    f"--log-disk={self.log_disk}",
                    "--log-floor-percent=1",
                    "--log-floor-mib=1",
                ],
            ),
            self.directory / "agent.log",
            env=environment,
        )
        self.shipper = Process(
            [
                *VAULTBRIX,
                "audit",
                "ship",
                f"--server={SERVER_NAME}",
                f"--log-directory={self.postgres.logs}",
                f"--grants={self.grants}",
                f"--store={self.store.secret}",
                f"--flow={self.flow}",
                f"--metrics-port={METRICS_PORT}",
            ],
            self.directory / "shipper.log",
        )
        self._numbers = itertools.count(1)

    @property
    def grants(self) -> Path:
        """The agent's state file."""
        return self.postgres.state / "grants.json"

    @property
    def flow(self) -> Path:
        """What the shipper tells the agent."""
        return self.directory / "flow.json"

    @property
    def log_disk(self) -> Path:
        """What the agent measures for PostgreSQL's log; a test may mount a small filesystem there."""
        return self.directory / "log-disk"

    def start(self) -> None:
        """Start all parts, with one PostgresServer and nothing in it."""
        self.api.start()
        self.api.namespace(SYSTEM)
        self.api.namespace(JOBS)
        self.postgres.start()
        self.postgres.set_password(ADMIN_PASSWORD)
        # As the chart's first start does.
        self.postgres.query("CREATE ROLE vaultbrix_agent LOGIN")
        self.postgres.query("GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO vaultbrix_agent")
        self.store.start()
        self.set_admin_password(ADMIN_PASSWORD)
        self.server_secret("pg-ca", {"ca.crt": self.postgres.authority.read_text()})
        self.server_secret("audit-reader", self.store.reader)
        self.keep_anchors()
        self.api.apply(server())
        self.heal()

    def keep_anchors(self) -> None:
        """Have the ConfigMap there in which the agent keeps anchors, as the chart has it."""
        metadata = {"name": ANCHORS, "namespace": SYSTEM}
        self.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})

    def heal(self) -> None:
        """Start whatever a test has ended."""
        for process in (self.operator, self.agent, self.shipper):
            if not process.running:
                process.start()
        self.api.await_condition("pgs", SERVER_NAME, "", patience=180)

    def clear(self) -> None:
        """End all rules that a test has left: their addresses would be open for the next one."""
        if self.api.request("GET", "/apis/vaultbrix.com/v1alpha1/accessrules?limit=1")["items"]:
            self.api.kubectl("delete", "accessrules", "-A", "--all", "--timeout=50s")
            wait_for("the kernel lets nobody in", lambda: not self.let_in())

    def forget(self) -> None:
        """Have all that tests have asked for deleted, whenever the operator gets to it."""
        if self.api.running:
            for kind in ("accessrules", "apikeys", "ddlapprovals", "tenants"):
                self.api.kubectl("delete", kind, "-A", "--all", "--wait=false", check=False)

    def leader(self) -> str:
        """Identity of the operator that works."""
        return str(self.api.get("lease", "vaultbrix-operator", SYSTEM).get("spec", {}).get("holderIdentity", ""))

    def let_in(self) -> list[str]:
        """CIDRs that the kernel lets through."""
        saved = run(*self.network.inside("server", ["ipset", "save"])).stdout.splitlines()
        return [line.split()[2] for line in saved if line.startswith("add vbx-allow")]

    def stop(self) -> None:
        """End all parts; they leave nothing behind but their logs."""
        for process in (self.shipper, self.agent, self.operator):
            process.stop()
        self.postgres.stop()
        self.store.stop()
        self.api.stop()
        self.network.close()

    def set_admin_password(self, password: str) -> None:
        """What the operator's Secret says; PostgreSQL keeps its own."""
        login = {"username": "postgres", "password": password, **self.postgres.client_certificate("postgres")}
        self.server_secret("pg-admin", login)

    def server_secret(self, name: str, data: dict[str, str]) -> None:
        """A Secret for the PostgresServer SERVER_NAME to name."""
        self.api.apply(secret(SYSTEM, name, data, for_servers=SERVER_NAME))

    def server(self, name: str, **spec: Any) -> None:
        """Another PostgresServer; what the first one names is for it too, and for as many of those before as fit."""
        before = self.api.get("secret", "pg-admin", SYSTEM)["metadata"]["labels"][FOR_SERVER]
        label = ".".join(dict.fromkeys((SERVER_NAME, name, *before.split("."))))
        while len(label) > LONGEST_LABEL:
            label = label.rpartition(".")[0]
        for named in ("pg-admin", "pg-ca", "audit-reader"):
            self.api.kubectl("-n", SYSTEM, "label", "--overwrite", "secret", named, f"{FOR_SERVER}={label}")
        self.api.apply(server(name, **spec))

    def team(self) -> str:
        """A new namespace."""
        return self.api.namespace(f"team-{next(self._numbers)}")

    def tenant(self, namespace: str, *, wait: bool = True, name: str = "", **spec: Any) -> str:
        """A Tenant with a slug of its own; returns its name, which with ``_`` for ``-`` is the slug."""
        name = name or f"acme-{next(self._numbers)}"
        self.api.apply(tenant(namespace, name, **spec))
        if wait:
            self.api.await_condition("tenant", name, namespace)
        return name

    def rule(self, namespace: str, tenant_name: str, *cidrs: str, name: str = "", **spec: Any) -> str:
        """An AccessRule; returns its name. Does not wait."""
        name = name or f"rule-{next(self._numbers)}"
        self.api.apply(rule(namespace, name, tenant_name, *cidrs, **spec))
        return name

    def api_key(self, namespace: str, tenant_name: str, *, name: str = "", wait: bool = True, **spec: Any) -> str:
        """An APIKey, ready unless told otherwise; returns its name."""
        name = name or f"key-{next(self._numbers)}"
        self.api.apply(api_key(namespace, name, tenant_name, **spec))
        if wait:
            self.api.await_condition("apikey", name, namespace)
        return name

    def password(self, namespace: str, tenant_name: str) -> str:
        """The tenant's, from its Secret."""
        return self.secret(namespace, f"{tenant_name}-db")["password"]

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        """What a Secret holds, in clear; empty when there is none."""
        data = self.api.get("secret", name, namespace).get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def psql(self, address: str, namespace: str, tenant_name: str, *statements: str, **options: Any) -> "Psql":
        """psql of a client as the tenant; see Psql."""
        return Psql(self, address, namespace, tenant_name, statements, **options)


class Psql:
    """psql in a client's namespace, as the tenant or whom another Secret names; the password goes by environment."""

    def __init__(
        self,
        world: World,
        address: str,
        namespace: str,
        tenant_name: str,
        statements: tuple[str, ...],
        host: str = SERVER,
        network: Network | None = None,
        secret_name: str = "",
        *,
        keep_going: bool = False,
    ) -> None:
        credentials = world.secret(namespace, secret_name or f"{tenant_name}-db")
        texts = [part for text in statements for part in ("-c", text)]
        authority = world.directory / f"{namespace}-{secret_name or tenant_name}.ca.crt"
        # Another client may be reading it.
        if not authority.exists() or authority.read_text() != credentials["ca.crt"]:
            authority.write_text(credentials["ca.crt"])
        # The environment of a Pod that takes it from the Secret, and mounts the CA elsewhere.
        self._env = {
            **{key: value for key, value in credentials.items() if key.startswith("PG")},
            "PGHOST": host,
            "PGSSLROOTCERT": str(authority),
            "PGCONNECT_TIMEOUT": "5",
        }
        verbose = ("-v", f"ON_ERROR_STOP={int(not keep_going)}", "-v", "VERBOSITY=verbose")
        network = network or world.network
        network.client(address)
        self._command = network.inside(address, ["psql", "-XAt", *verbose, *texts])

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it to its end, however that is."""
        return run(*self._command, check=False, env=self._env)

    def works(self) -> bool:
        """Whether it ends well."""
        return self.run().returncode == 0

    def hold(self, log: Path) -> Process:
        """Start it as a process that a test watches."""
        process = Process(self._command, log, env=self._env)
        process.start()
        return process


def secret(namespace: str, name: str, data: dict[str, str], *, for_servers: str = "") -> Object:
    """A Secret, for PostgresServers by these names, joined by dots."""
    labels = {"labels": {FOR_SERVER: for_servers}} if for_servers else {}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, **labels},
        "stringData": data,
    }


def server(name: str = SERVER_NAME, **spec: Any) -> Object:
    """A PostgresServer that leads to the PostgreSQL of the tests."""
    return _ours("PostgresServer", name, "", spec={
        "host": SERVER,
        "publicEndpoint": {"host": SERVER, "port": PORT, "echoPort": ECHO_PORT},
        "tls": {"mode": "verify-ca", "caSecretRef": {"name": "pg-ca", "namespace": SYSTEM}},
        "adminSecretRef": {"name": "pg-admin", "namespace": SYSTEM},
        "namespace": SYSTEM,
        "podSelector": {"app": "postgresql"},
        "trusted": {"addresses": [MACHINE]},
        "auditSecretRef": {"name": "audit-reader", "namespace": SYSTEM},
        "limits": {"maxRulesPerTenant": 1000},
        "allowedNamespaces": {"from": "All"},
        **spec,
    })  # fmt: skip


def tenant(namespace: str, name: str, **spec: Any) -> Object:
    """A Tenant."""
    return _ours("Tenant", name, namespace, spec={"serverRef": {"name": SERVER_NAME}, **spec})


def rule(namespace: str, name: str, tenant_name: str, *cidrs: str, **spec: Any) -> Object:
    """An AccessRule, for an hour unless it says otherwise."""
    lasting = {} if {"ttl", "expiresAt"} & spec.keys() else {"ttl": "1h"}
    return _ours("AccessRule", name, namespace, spec={
        "tenantRef": {"name": tenant_name},
        "cidrs": list(cidrs),
        "reason": "tests",
        "requestedBy": "jane@example.com",
        **lasting,
        **spec,
    })  # fmt: skip


def approval(namespace: str, name: str, tenant_name: str, sql: str, **spec: Any) -> Object:
    """A DDLApproval."""
    return _ours("DDLApproval", name, namespace, spec={
        "tenantRef": {"name": tenant_name},
        "sql": sql,
        "reason": "tests",
        "requestedBy": "jane@example.com",
        **spec,
    })  # fmt: skip


def api_key(namespace: str, name: str, tenant_name: str, **spec: Any) -> Object:
    """An APIKey, for servers unless it says otherwise."""
    return _ours("APIKey", name, namespace, spec={
        "tenantRef": {"name": tenant_name},
        "kind": "Secret",
        "reason": "tests",
        "requestedBy": "jane@example.com",
        **spec,
    })  # fmt: skip


def in_seconds(seconds: float) -> str:
    """A time of the API so many seconds from now; times of the API are whole seconds, so up to one earlier."""
    return datetime.fromtimestamp(datetime.now(UTC).timestamp() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ours(kind: str, name: str, namespace: str, spec: Object) -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "vaultbrix.com/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
