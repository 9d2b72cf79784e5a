"""The people and processes of the table in docs/approvals.md, in one namespace of a PolicedCluster."""

import itertools

from tests.harness.admission import (
    EDIT,
    EVERYTHING,
    REMOTE_OPERATOR,
    SHA256,
    Caller,
    PolicedCluster,
    api_key,
    approval,
    on,
    rule,
    tenant,
)
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for

# The API server lets this group do everything.
MASTERS = "system:masters"
REQUESTS = ("accessrules", "ddlapprovals", "apikeys")


class PolicedTeam:
    """``jane`` and ``joe`` edit, ``pat`` also decides, and ``lone`` on one object alone; ``gitops`` asks for others,
    ``robot`` decides.

    ``keeper`` may change finalizers. ``eve``, and ``everywhere`` in all of the cluster, may do whatever RBAC alone can
    allow, and have none of the verbs that policies ask for. ``admin`` has every verb there is.
    """

    def __init__(self, cluster: PolicedCluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, cluster.api.namespace(namespace)
        self._numbers = itertools.count(1)
        self.jane = self._person("jane@example.com", EDIT)
        self.joe = self._person("joe@example.com", EDIT)
        self.pat = self._person("pat@example.com", EDIT, on(["approve"], "ddlapprovals", "accessrules", "tenants"))
        self.lone = self._person("lone@example.com", EDIT, on(["approve"], "ddlapprovals", names=("lone",)))
        self.keeper = self._person("keeper@example.com", EDIT, on(["update"], *(f"{r}/finalizers" for r in REQUESTS)))
        self.eve = self._person("eve@example.com", EVERYTHING)
        self.everywhere = cluster.person("everywhere@example.com")
        cluster.let("everywhere@example.com", "", EVERYTHING)
        self.admin = cluster.person("admin@example.com", MASTERS)
        self.gitops = self._account("gitops", EDIT, on(["request-for"], *REQUESTS))
        self.robot = self._account("robot", EDIT, on(["approve"], "ddlapprovals"))
        self.operator = cluster.account("default", "x-vaultbrix-operator")
        self.remote_operator = cluster.person(REMOTE_OPERATOR)
        self.agent = cluster.account("default", "x-vaultbrix-agent")
        self.vm_agent = cluster.person("vaultbrix:agent:db1")
        self.gateway = cluster.account("default", "x-vaultbrix-data-api")
        wait_for("rights are known", self._known)

    def _person(self, name: str, *rules: Object) -> Caller:
        self.cluster.let(name, self.namespace, *rules)
        return self.cluster.person(name)

    def _account(self, name: str, *rules: Object) -> Caller:
        self.cluster.api.kubectl("-n", self.namespace, "create", "serviceaccount", name)
        account = self.cluster.account(self.namespace, name)
        self.cluster.let(account.name, self.namespace, *rules)
        return account

    def _known(self) -> bool:
        path = f"/apis/vaultbrix.com/v1alpha1/namespaces/{self.namespace}/accessrules"
        people = (self.jane, self.joe, self.pat, self.lone, self.keeper, self.eve, self.everywhere, self.gitops)
        return all(caller.send("GET", path).allowed for caller in people)

    def name(self) -> str:
        """A name that no other object has."""
        return f"x{next(self._numbers)}"

    def rule(self, by: Caller | None = None) -> Object:
        """A new rule of somebody."""
        return self._made(by or self.jane, rule(self.namespace, (by or self.jane).name, self.name()))

    def asked_rule(self, by: Caller | None = None, **status: object) -> Object:
        """A new rule of somebody's that waits for a decision, as the operator has written; ``status`` is what else."""
        made = self.rule(by)
        self.write(made, **{"phase": "Pending", "sha256": SHA256, **status})
        return made

    def tenant(self, **spec: object) -> Object:
        """A new Tenant, with guards that an admin has loosened as ``spec`` says."""
        return self._made(self.admin, tenant(self.namespace, self.name(), **spec))

    def api_key(self) -> Object:
        """A new key of jane's."""
        return self._made(self.jane, api_key(self.namespace, self.jane.name, self.name()))

    def approval(self, by: Caller | None = None, *, name: str = "", **status: object) -> Object:
        """A new request of somebody's, which the operator has read; ``status`` says what else it wrote."""
        asked = approval(self.namespace, (by or self.jane).name, name or self.name())
        made = self._made(by or self.jane, asked)
        self.write(made, phase="Pending", sha256=SHA256, **status)
        return made

    def write(self, known: Object, **status: object) -> None:
        """Have the operator write into a status."""
        answer = self.operator.apply(known, {"status": status}, "status", manager="vaultbrix-operator")
        assert answer.allowed, answer.body

    def read(self, known: Object) -> Object:
        """An object as it is now."""
        return self.admin.read(known)

    def _made(self, by: Caller, body: Object) -> Object:
        answer = by.create(body)
        assert answer.allowed, answer.body
        return body
