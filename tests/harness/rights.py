"""Who needs which rights: a table to hold against what the API server allows. It shares nothing with the chart."""

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from urllib.parse import urlsplit

from tests.harness.admission import POLICY_LIST
from tests.harness.apiserver import ApiServer

RELEASE, JOBS, TEAM = "vaultbrix-release", "vaultbrix-release-jobs", "team-acme"
# Where agents have Leases that are on machines of their own, and where trusted Pods are.
MACHINES, MONITORING = "vaultbrix-system", "monitoring"
NAMESPACES = ("", RELEASE, JOBS, TEAM, MACHINES, MONITORING, "stranger", "default", "kube-system")
ANYWHERE = NAMESPACES

OURS, APPS, BATCH, NETWORK = "vaultbrix.com", "apps", "batch", "networking.k8s.io"
LEASES, ADMISSION, RBAC = "coordination.k8s.io", "admissionregistration.k8s.io", "rbac.authorization.k8s.io"

LOOK = ("get", "list", "watch")
CHANGE = ("create", "update", "patch", "delete")
VERBS = (*LOOK, *CHANGE, "deletecollection")
KINDS = ("postgresservers", "tenants", "accessrules", "ddlapprovals", "apikeys")
TEAMS = KINDS[1:]
DEFINITIONS = tuple(f"{kind}.{OURS}" for kind in KINDS)

# Of the release: what it is made of, and what an agent, a shipper, PostgreSQL or a tenant has.
OPERATORS = tuple(
    f"x-vaultbrix-{name}" for name in ("postgresql-admin", "postgresql-tls", "audit-reader", "audit-manager")
)
SHUT = tuple(
    f"x-vaultbrix-{name}" for name in ("ca", "audit-owner", "audit-tls", "audit-shipper", "audit-shipper-other")
)
NAMED, DATA_API, USERS = "db1-admin", "main-data-api", "shop-users"
SECRETS = ("", *OPERATORS, *SHUT, NAMED, DATA_API, USERS, "ddl-1", "acme-db")
AGENT = "x-vaultbrix-postgresql-0"
POLICIES = tuple(
    f"x-vaultbrix-{name}" for name in ("requests", "decisions", "tenants", "finalizers", "operator", "status")
)

# What is tried: resources by group, those with more names than none, and verbs that only some have.
RESOURCES = {
    OURS: (*KINDS, *(f"{k}/{part}" for k in KINDS for part in ("status", "finalizers")), "agents"),
    "": (
        "secrets", "configmaps", "pods", "pods/exec", "pods/attach", "pods/portforward", "pods/log",
        "pods/ephemeralcontainers", "serviceaccounts", "serviceaccounts/token", "services", "endpoints", "events",
        "persistentvolumeclaims", "namespaces", "nodes", "nodes/proxy", "persistentvolumes", "replicationcontrollers",
    ),
    APPS: ("deployments", "statefulsets", "daemonsets", "replicasets"),
    BATCH: ("jobs", "cronjobs"),
    NETWORK: ("networkpolicies", "ingresses"),
    LEASES: ("leases",),
    RBAC: ("roles", "rolebindings", "clusterroles", "clusterrolebindings"),
    ADMISSION: (
        "validatingadmissionpolicies", "validatingadmissionpolicybindings", "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
    ),
    "apiextensions.k8s.io": ("customresourcedefinitions",),
    "certificates.k8s.io": ("certificatesigningrequests", "certificatesigningrequests/approval"),
}  # fmt: skip
NAMES = {
    "secrets": SECRETS,
    "configmaps": ("", POLICY_LIST, "vaultbrix-anchors-main", "vaultbrix-anchors-other", "another"),
    "leases": ("", "vaultbrix-operator", f"main-{AGENT}", "main-db1", "other-db2"),
    "agents": ("", AGENT, "db1", "db2"),
    "postgresservers": ("", "main", "other"),
    "customresourcedefinitions": ("", *DEFINITIONS, "anothers.example.com"),
    "validatingadmissionpolicies": ("", *POLICIES, "another"),
    "validatingadmissionpolicybindings": ("", *POLICIES, "another"),
}
MORE_VERBS = {
    **dict.fromkeys(KINDS, ("approve", "request-for", "report")),
    "agents": ("report",),
    "serviceaccounts": ("impersonate",),
    "roles": ("bind", "escalate"),
    "clusterroles": ("bind", "escalate"),
}
ACTING = tuple(("", resource, "impersonate", "", "") for resource in ("users", "groups"))

Attempt = tuple[str, str, str, str, str]
"""Group, resource with its subresource, verb, name ("": any), namespace ("": all, or none)."""


@dataclass(frozen=True)
class Need:
    """Verbs on resources of a group in namespaces, of these names alone where there are any."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    namespaces: tuple[str, ...] = ANYWHERE
    names: tuple[str, ...] = ()

    def covers(self, attempt: Attempt) -> bool:
        """Whether the attempt is part of it."""
        group, resource, verb, name, namespace = attempt
        return (
            group == self.group
            and resource in self.resources
            and verb in self.verbs
            and namespace in self.namespaces
            and (not self.names or name in self.names)
        )


@dataclass(frozen=True)
class Identity:
    """Somebody by the name that the API server knows, and what they need."""

    name: str
    needs: tuple[Need, ...] = ()
    groups: tuple[str, ...] = ("system:authenticated",)

    def may(self, attempt: Attempt) -> bool:
        """Whether it is part of what they need."""
        return any(need.covers(attempt) for need in self.needs)


def account(namespace: str, name: str, *needs: Need) -> Identity:
    """A ServiceAccount."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return Identity(f"system:serviceaccount:{namespace}:{name}", needs, groups)


def attempts() -> Iterator[Attempt]:
    """Each verb on each resource, by each name that means something, everywhere."""
    for group, resources in RESOURCES.items():
        for resource in resources:
            verbs = (*VERBS, *MORE_VERBS.get(resource, ()))
            for verb, name, namespace in product(verbs, NAMES.get(resource, ("",)), NAMESPACES):
                yield group, resource, verb, name, namespace
    yield from ACTING


class Reviewer:
    """Asks the API server, by one connection, what somebody may do (SubjectAccessReview)."""

    def __init__(self, api: ApiServer) -> None:
        context = ssl.create_default_context(cafile=str(api.authority))
        self._connection = http.client.HTTPSConnection(urlsplit(api.url).netloc, context=context, timeout=60)
        self._headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}

    def allows(self, who: Identity, attempt: Attempt) -> bool:
        """Whether they may."""
        group, resource, verb, name, namespace = attempt
        resource, _, subresource = resource.partition("/")
        asked = {
            "group": group, "resource": resource, "subresource": subresource, "verb": verb, "name": name,
            "namespace": namespace,
        }  # fmt: skip
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": who.name, "groups": who.groups, "resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        self._connection.request("POST", path, json.dumps(body), self._headers)
        answer = json.load(self._connection.getresponse())
        return bool(answer["status"]["allowed"])

    def differences(self, who: Identity) -> list[str]:
        """What they may and do not need, and what they need and may not."""
        return [
            f"{'may not' if who.may(attempt) else 'may'} {attempt}"
            for attempt in attempts()
            if self.allows(who, attempt) != who.may(attempt)
        ]


# Whether the policies are in force without which no decision counts.
POLICED = (
    Need(ADMISSION, ("validatingadmissionpolicies", "validatingadmissionpolicybindings"), ("get",), names=POLICIES),
    Need("", ("configmaps",), ("get",), (RELEASE,), (POLICY_LIST,)),
)

OPERATOR = account(
    RELEASE,
    "x-vaultbrix-operator",
    *POLICED,
    Need(OURS, KINDS, LOOK),
    # Finalizers, statuses, records of ended rules, requests of refused statements.
    Need(OURS, ("postgresservers", "tenants", "accessrules", "ddlapprovals"), ("patch",)),
    Need(OURS, tuple(f"{kind}/status" for kind in KINDS), ("patch",)),
    Need(OURS, ("accessrules",), ("delete",)),
    Need(OURS, ("ddlapprovals",), ("create",)),
    Need("", ("events",), ("create",)),
    Need("", ("namespaces",), ("list", "watch")),
    Need("", ("nodes",), ("list",)),
    Need("apiextensions.k8s.io", ("customresourcedefinitions",), ("get",), names=DEFINITIONS),
    Need(NETWORK, ("networkpolicies",), ("list",)),
    Need("", ("secrets",), ("get", "watch"), (RELEASE,), (*OPERATORS, NAMED)),
    Need("", ("secrets",), ("get",), (RELEASE,), (DATA_API,)),
    Need(NETWORK, ("networkpolicies",), ("get", "create", "patch", "delete"), (RELEASE,)),
    Need(LEASES, ("leases",), ("get", "create"), (RELEASE,)),
    Need(LEASES, ("leases",), ("update",), (RELEASE,), ("vaultbrix-operator",)),
    Need("", ("secrets",), (*LOOK, *CHANGE), (JOBS,)),
    Need(BATCH, ("jobs",), ("get", "list", "create", "delete"), (JOBS,)),
    Need("", ("pods",), ("list",), (JOBS,)),
    Need("", ("secrets",), ("get", "create", "update", "delete"), (TEAM,)),
    Need(OURS, ("tenants/finalizers", "accessrules/finalizers", "apikeys/finalizers"), ("update",), (TEAM,)),
)


def _agent(server: str, name: str, namespace: str) -> tuple[Need, ...]:
    return (
        *POLICED,
        Need(OURS, ("postgresservers", "tenants", "accessrules", "ddlapprovals"), LOOK),
        Need(OURS, ("accessrules/status", "postgresservers/status"), ("patch",)),
        Need(OURS, ("agents",), ("report",), names=(name,)),
        Need(OURS, ("postgresservers",), ("report",), names=(server,)),
        Need(LEASES, ("leases",), ("create",), (namespace,)),
        Need(LEASES, ("leases",), ("patch",), (namespace,), (f"{server}-{name}",)),
        # Where neither the operator nor the store's owner can write.
        Need("", ("configmaps",), ("get", "patch"), (namespace,), (f"vaultbrix-anchors-{server}",)),
        Need("", ("events",), ("create",), ("default",)),
    )


PODS = Need("", ("pods",), ("list", "watch"), (RELEASE, JOBS, MONITORING))
MADE = (*OPERATORS, *SHUT)
BOOTSTRAP = account(
    RELEASE,
    "x-vaultbrix-bootstrap",
    Need("", ("secrets",), ("create",), (RELEASE,)),
    Need("", ("secrets",), ("get", "patch"), (RELEASE,), MADE),
)
UPGRADING = account(
    RELEASE,
    "x-vaultbrix-bootstrap",
    *BOOTSTRAP.needs,
    Need(BATCH, ("jobs",), ("list", "delete"), (RELEASE,)),
    Need("", ("secrets",), ("delete",), (RELEASE,)),
)

PROCESSES = {
    "operator": OPERATOR,
    "agent": account(RELEASE, "x-vaultbrix-agent", *_agent("main", AGENT, RELEASE), PODS),
    "agent of another server": Identity("vaultbrix:agent:db2", _agent("other", "db2", MACHINES)),
    "its ServiceAccount": account(MACHINES, "vaultbrix-vm-agent-db2", *_agent("other", "db2", MACHINES)),
    "bootstrap": BOOTSTRAP,
    "data API": account(
        RELEASE,
        "x-vaultbrix-data-api",
        Need(OURS, ("postgresservers", "tenants", "apikeys"), LOOK),
        Need(OURS, ("apikeys/status",), ("patch",)),
        Need(OURS, ("apikeys",), ("report",)),
        Need("", ("secrets",), ("get", "watch"), (JOBS,), (DATA_API,)),
        Need("", ("secrets",), ("get", "watch"), (TEAM,), (USERS,)),
    ),
    # Neither gets a token; should one, it is worth nothing.
    "Job": account(JOBS, "default"),
    "audit store": account(RELEASE, "default"),
    "a stranger": Identity("stranger@example.com"),
    "nobody": Identity("system:anonymous", groups=("system:unauthenticated",)),
}


def person(role: str, *needs: Need) -> Identity:
    """Somebody who is bound to a role of users in TEAM."""
    return Identity(f"{role}@example.com", needs)


_LOOKS = Need(OURS, KINDS, LOOK, (TEAM,))
PEOPLE = {
    "view": person("view", _LOOKS),
    "edit": person("edit", _LOOKS, Need(OURS, TEAMS, CHANGE, (TEAM,))),
    "approve": person(
        "approve", _LOOKS, Need(OURS, ("tenants", "accessrules", "ddlapprovals"), ("patch", "approve"), (TEAM,))
    ),
    "admin": person("admin", _LOOKS, Need(OURS, KINDS, CHANGE, (TEAM,))),
}
