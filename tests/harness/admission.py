"""An API server with the policies and roles of the chart, and the people and processes that it knows apart."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.harness import chart
from tests.harness.apiserver import ApiServer
from tests.harness.kube_http import Object
from tests.harness.shell import TOP, wait_for
from tests.harness.slot import SLOT

from vaultbrix.api.meta import API_VERSION, GROUP
from vaultbrix.kube.resources import OURS

RBAC = "rbac.authorization.k8s.io"
POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
RIGHTS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
# The ConfigMap that names the policies, and the roles with which it and they are read.
POLICY_LIST = "x-vaultbrix-admission"
SERVER, OTHER_SERVER = "main", "other"
AGENT, VM_AGENT = "x-vaultbrix-postgresql-0", "db1"
# The release's own, and one from a machine that is not in the cluster.
OPERATOR, REMOTE_OPERATOR = "system:serviceaccount:default:x-vaultbrix-operator", "vaultbrix:operator"
KINDS = {kind.kind: kind for kind in OURS.values()}
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
ALL_VERBS = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]


@dataclass(frozen=True)
class Answer:
    """What the API server said: the object, or why not."""

    code: int
    body: Object

    @property
    def denial(self) -> str:
        """Why a policy refused it; empty where none did."""
        message = str(self.body.get("message", "")) if self.code == 403 else ""
        return message.partition(" denied request: ")[2]

    @property
    def allowed(self) -> bool:
        """Whether it was done."""
        return self.code < 300


@dataclass(frozen=True)
class Caller:
    """Somebody whom the API server knows by a certificate or a token, and as whom they act, if not as themselves."""

    name: str
    url: str
    context: ssl.SSLContext
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    kubeconfig: Path | None = None

    def acting_as(self, name: str, *groups: str) -> "Caller":
        """The same, but impersonating."""
        headers = {**self.headers, "Impersonate-User": name}
        if groups:
            headers["Impersonate-Group"] = groups[0]
        return Caller(name, self.url, self.context, headers)

    def send(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Answer:
        """One request."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={**self.headers, "Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=30) as answer:
                return Answer(answer.status, json.load(answer))
        except urllib.error.HTTPError as error:
            return Answer(error.code, json.loads(error.read()))

    @staticmethod
    def path(known: Object, subresource: str = "") -> str:
        """Where an object is."""
        meta = known["metadata"]
        return KINDS[known["kind"]].path(meta.get("namespace", ""), meta["name"], subresource)

    def create(self, body: Object, *, dry_run: bool = False) -> Answer:
        """Create an object; with ``dry_run`` only have it checked."""
        path = KINDS[body["kind"]].path(body["metadata"].get("namespace", ""))
        return self.send("POST", f"{path}?dryRun=All" if dry_run else path, body)

    def read(self, known: Object) -> Object:
        """An object as it is now."""
        answer = self.send("GET", self.path(known))
        assert answer.allowed, answer.body
        return answer.body

    def merge(self, known: Object, body: Object, subresource: str = "", *, dry_run: bool = False) -> Answer:
        """Change an object by a JSON merge patch; with ``dry_run`` only have the change checked."""
        path = self.path(known, subresource)
        return self.send("PATCH", f"{path}?dryRun=All" if dry_run else path, body, MERGE)

    def json_patch(self, known: Object, operations: list[Object], subresource: str = "") -> Answer:
        """Change an object by a JSON patch (RFC 6902)."""
        return self.send("PATCH", self.path(known, subresource), operations, "application/json-patch+json")

    def apply(self, known: Object, body: Object, subresource: str = "", *, manager: str = "test") -> Answer:
        """Change an object by server-side apply, taking over fields of other managers."""
        head = {"apiVersion": API_VERSION, "kind": known["kind"], "metadata": {"name": known["metadata"]["name"]}}
        path = f"{self.path(known, subresource)}?fieldManager={manager}&force=true"
        return self.send("PATCH", path, {**head, **body}, APPLY)

    def replace(self, known: Object, subresource: str = "", **changes: Any) -> Answer:
        """Read an object, and write it whole with these fields changed."""
        return self.send("PUT", self.path(known, subresource), {**self.read(known), **changes})


class PolicedCluster:
    """The API server, with policies and rights as the chart and manifests/ have them.

    ``namespace`` is the release's, and ``values`` are those of the chart. ``ports`` are the API server's and etcd's:
    a worker may have two clusters at a time.
    """

    def __init__(
        self,
        directory: Path,
        *,
        namespace: str = chart.NAMESPACE,
        values: tuple[str, ...] = (),
        ports: tuple[int, int] = (12386, 12384),
    ) -> None:
        self.namespace = namespace
        self._values = (*chart.DATA_API, f"admission.operators={{{REMOTE_OPERATOR}}}", *values)
        port, etcd_port = (number + 10 * SLOT for number in ports)
        self.api = ApiServer(directory, address="127.0.0.1", port=port, etcd_port=etcd_port)

    def start(self, *namespaces: str) -> None:
        """Start it, with more namespaces, and wait until every policy is in force."""
        self.api.start()
        for namespace in dict.fromkeys(("vaultbrix-system", self.namespace, *namespaces)):
            self.api.namespace(namespace)
        self.install(*RIGHTS, *POLICIES)
        install(self.api, agent_rights(release=self.namespace))
        self.let(REMOTE_OPERATOR, "", EVERYTHING)
        for name in (SERVER, OTHER_SERVER):
            self.api.apply(server(name))
        self._await_policies()

    def install(self, *kinds: str, upgrade: bool = False) -> None:
        """Apply the chart's objects of these kinds, as a new release or its upgrade has them."""
        release = chart.rendered(*self._values, namespace=self.namespace, upgrade=upgrade)
        install(self.api, [document for kind in kinds for document in chart.of(release, kind)])

    def _await_policies(self) -> None:
        namespace = self.api.namespace("probe")
        self.let("probe", namespace, EVERYTHING)
        probe, held = self.person("probe"), tenant(namespace)
        wait_for("the API server knows the rights", lambda: probe.create(held).allowed)
        decided = approval(namespace, "probe", decision=decision("probe"))
        # What was let through must not be there for the next attempt: it would change nothing.
        for policy, attempt in {
            "requests": lambda: probe.create(rule(namespace, "other"), dry_run=True),
            "decisions": lambda: probe.create(decided, dry_run=True),
            "tenants": lambda: probe.merge(held, {"spec": {"deletionPolicy": "Delete"}}, dry_run=True),
            "finalizers": lambda: probe.merge(
                held, {"metadata": {"finalizers": ["vaultbrix.com/probe"]}}, dry_run=True
            ),
            "status": lambda: probe.merge(held, {"status": {"role": "probe"}}, "status", dry_run=True),
        }.items():
            wait_for(f"policy {policy} is in force", lambda attempt=attempt: attempt().denial)  # type: ignore[misc]

    def stop(self) -> None:
        """End it."""
        self.api.stop()

    def let(self, user: str, namespace: str, *rules: Object) -> None:
        """Give somebody rights in a namespace, or everywhere; who is a ServiceAccount has its long name."""
        let(self.api, user, namespace, *rules)

    def person(self, name: str, *groups: str) -> Caller:
        """Somebody by a client's certificate."""
        kubeconfig = self.api.user(name, *groups)
        user = json.loads(kubeconfig.read_text())["users"][0]["user"]
        context = ssl.create_default_context(cafile=str(self.api.authority))
        context.load_cert_chain(user["client-certificate"], user["client-key"])
        return Caller(name, self.api.url, context, kubeconfig=kubeconfig)

    def account(self, namespace: str, name: str) -> Caller:
        """A ServiceAccount, by a token as its Pod has one."""
        token = self.api.kubectl("-n", namespace, "create", "token", name).strip()
        context = ssl.create_default_context(cafile=str(self.api.authority))
        known_as = f"system:serviceaccount:{namespace}:{name}"
        return Caller(known_as, self.api.url, context, {"Authorization": f"Bearer {token}"})


def let(api: ApiServer, user: str, namespace: str, *rules: Object) -> None:
    """Give somebody rights in a namespace, or everywhere."""
    role, name = "Role" if namespace else "ClusterRole", user.replace(":", ".").replace("@", ".")
    head = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": name, **({"namespace": namespace} if namespace else {})}}
    reference = {"apiGroup": RBAC, "kind": role, "name": name}
    subjects = [{"apiGroup": RBAC, "kind": "User", "name": user}]
    api.apply({**head, "kind": role, "rules": list(rules)})
    api.apply({**head, "kind": f"{role}Binding", "roleRef": reference, "subjects": subjects})


def bind(api: ApiServer, user: str, role: str, namespace: str) -> None:
    """Give somebody a ClusterRole in a namespace."""
    reference = {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}
    api.apply({
        "apiVersion": f"{RBAC}/v1", "kind": "RoleBinding",
        "metadata": {"name": f"{role}-{user.partition('@')[0]}", "namespace": namespace},
        "roleRef": reference, "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
    })  # fmt: skip


def install(api: ApiServer, documents: Iterable[Any]) -> None:
    """Apply objects of all kinds."""
    api.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump_all(documents))


def agent_rights(
    name: str = VM_AGENT, namespace: str = "vaultbrix-system", of: str = SERVER, release: str = chart.NAMESPACE
) -> list[Any]:
    """Rights of an agent outside the cluster of a server, with its name and the namespace of its Lease.

    ``release`` is the namespace of the release, whose policies it may read.
    """
    text = (TOP / "manifests/vm-agent-rbac.yaml").read_text().replace("warehouse", of)
    documents = list(yaml.safe_load_all(text.replace(VM_AGENT, name).replace("vaultbrix-system", namespace)))
    for document in documents:
        if document.get("roleRef", {}).get("name") == "vaultbrix-admission":
            document["roleRef"]["name"] = POLICY_LIST
            if "namespace" in document["metadata"]:
                document["metadata"]["namespace"] = release
    return documents


def on(verbs: list[str], *plurals: str, names: tuple[str, ...] = ()) -> Object:
    """A rule of a role, over resources of our group."""
    named = {"resourceNames": list(names)} if names else {}
    return {"apiGroups": [GROUP], "resources": list(plurals), "verbs": verbs, **named}


# Whatever RBAC can allow of our objects themselves, and none of the verbs that policies ask for.
EVERYTHING = on(ALL_VERBS, *(f"{kind.plural}{part}" for kind in OURS.values() for part in ("", "/status")))
EDIT = on(ALL_VERBS, "tenants", "accessrules", "ddlapprovals", "apikeys")


def _object(kind: str, namespace: str, name: str, spec: Object) -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def server(name: str) -> Object:
    """A PostgresServer that nobody connects to."""
    tls, secret = {"mode": "require"}, {"name": "admin", "namespace": "default"}
    return _object("PostgresServer", "", name, {"host": "pg.example.com", "tls": tls, "adminSecretRef": secret})


def tenant(namespace: str, name: str = "acme", **spec: Any) -> Object:
    """A Tenant with guards as they are by default."""
    return _object("Tenant", namespace, name, {"serverRef": {"name": SERVER}, **spec})


def rule(namespace: str, requested_by: str, name: str = "rule", **spec: Any) -> Object:
    """An AccessRule for Tenant acme."""
    fixed = {"tenantRef": {"name": "acme"}, "cidrs": ["203.0.113.7/32"], "ttl": "1h", "reason": "CHG-1"}
    return _object("AccessRule", namespace, name, {**fixed, "requestedBy": requested_by, **spec})


def approval(namespace: str, requested_by: str, name: str = "drop", **spec: Any) -> Object:
    """A DDLApproval for Tenant acme."""
    fixed = {"tenantRef": {"name": "acme"}, "sql": "DROP TABLE a", "reason": "CHG-2"}
    return _object("DDLApproval", namespace, name, {**fixed, "requestedBy": requested_by, **spec})


def api_key(namespace: str, requested_by: str, name: str = "shop", **spec: Any) -> Object:
    """An APIKey for Tenant acme."""
    fixed = {"tenantRef": {"name": "acme"}, "kind": "Secret", "reason": "CHG-3"}
    return _object("APIKey", namespace, name, {**fixed, "requestedBy": requested_by, **spec})


SHA256 = "a" * 64


def decision(by: str, **fields: Any) -> Object:
    """An approval of the text whose hash is SHA256."""
    return {"verdict": "Approved", "by": by, "sha256": SHA256, **fields}
