"""Finds the audit store of a PostgresServer with the caller's kubeconfig and rights, and the way to it."""

from dataclasses import dataclass
from typing import Any

from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.client import Kube, NotFound, Object
from vaultbrix.kube.owned_secret import Values, decoded
from vaultbrix.kube.resources import PODS, SECRETS, SERVICES, resource_type
from vaultbrix.kube.rights import lacks_right
from vaultbrix.runtime.errors import Blocked
from vaultbrix.runtime.usage import Refused

OTHERWISE = "or connect by libpq: --store, or PGHOST and its kin"
_NEEDED = ("host", "port", "dbname", "username", "password", "ca.crt")


@dataclass(frozen=True)
class PodPort:
    """A port of a Pod that is ready."""

    namespace: str
    pod: str
    port: int


@dataclass(frozen=True)
class Located:
    """A store: what a reader logs in with, and the Pod that it runs in; None where its host is no Service."""

    login: Values
    at: PodPort | None


async def locate(kube: Kube, server: str) -> Located:
    """The store of the PostgresServer of that name; without a name, of the only one. Raises Refused and Expected."""
    found = await _server(kube, server)
    reference = found.spec.audit_secret_ref
    name = found.metadata.name
    if reference is None:
        raise Refused(f"PostgresServer {name} names no audit store (spec.auditSecretRef); have an admin set it")
    where = f"Secret {reference.namespace}/{reference.name}"
    of = f"the reader of the audit store of PostgresServer {name}"
    try:
        secret = await kube.get(SECRETS, reference.namespace, reference.name)
    except NotFound:
        raise Refused(f"there is no {where}, {of}; have an admin create it, {OTHERWISE}") from None
    except Blocked as error:
        raise _without_right(error, f"you may not read {where}, {of}; ask for verb get on it, {OTHERWISE}") from None
    login = decoded(secret.get("data") or {})
    lacking = [key for key in _NEEDED if not login.get(key)]
    if lacking or not login["port"].isdecimal():
        raise Refused(f"{where}, {of}, lacks {', '.join(lacking) or 'a number in port'}; have an admin complete it")
    return Located(login, await _pod(kube, login["host"], int(login["port"]), reference.namespace))


async def _server(kube: Kube, name: str) -> PostgresServer:
    kind = resource_type(PostgresServer)
    try:
        if name:
            return PostgresServer.parse(await kube.get(kind, "", name))
        servers = [PostgresServer.parse(item) for item in (await kube.list(kind)).get("items", [])]
    except NotFound:
        raise Refused(f"there is no PostgresServer {name}; see: kubectl get pgs") from None
    except Blocked as error:
        what = f"get on PostgresServer {name}" if name else "list on postgresservers, or name one with --of"
        told = "you may not look for the audit store: ask for verb"
        raise _without_right(error, f"{told} {what}, {OTHERWISE}") from None
    with_store = {s.spec.audit_secret_ref: s for s in servers if s.spec.audit_secret_ref is not None}
    if not with_store:
        raise Refused(f"no PostgresServer names an audit store; have an admin set spec.auditSecretRef, {OTHERWISE}")
    if len(with_store) > 1:
        names = ", ".join(sorted(s.metadata.name for s in servers if s.spec.audit_secret_ref is not None))
        raise Refused(f"there are several audit stores; say of which PostgresServer with --of: {names}")
    return next(iter(with_store.values()))


async def _pod(kube: Kube, host: str, port: int, default_namespace: str) -> PodPort | None:
    """A Pod behind the Service that a host names, as Kubernetes' DNS does: name, namespace, svc, and the domain."""
    name, _, rest = host.partition(".")
    namespace, _, kind = rest.partition(".")
    if kind and kind.split(".")[0] != "svc":
        return None
    namespace = namespace or default_namespace
    try:
        service = await kube.get(SERVICES, namespace, name)
    except NotFound:
        return None
    except Blocked as error:
        raise _without_right(
            error,
            f"you may not read Service {namespace}/{name} of the audit store; ask for verb get on it, {OTHERWISE}",
        ) from None
    selector = ",".join(f"{key}={value}" for key, value in (service["spec"].get("selector") or {}).items())
    target = next((p.get("targetPort", port) for p in service["spec"].get("ports", []) if p["port"] == port), None)
    if not selector or target is None:
        return None
    try:
        pods = (await kube.list(PODS, namespace, labels=selector)).get("items", [])
    except Blocked as error:
        raise _without_right(
            error, f"you may not list Pods in namespace {namespace}; ask for verb list on pods there, {OTHERWISE}"
        ) from None
    ready = [pod for pod in pods if _is_ready(pod)]
    if not ready:
        raise Refused(
            f"no Pod of the audit store is ready (Service {namespace}/{name}); see: kubectl -n {namespace} get pods "
            f"-l {selector}"
        )
    number = _number(ready[0], target)
    return None if number is None else PodPort(namespace, ready[0]["metadata"]["name"], number)


def _is_ready(pod: Object) -> bool:
    conditions: list[dict[str, Any]] = pod.get("status", {}).get("conditions") or []
    there = "deletionTimestamp" not in pod["metadata"]
    return there and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _number(pod: Object, target: int | str) -> int | None:
    """The number of a Service's targetPort, which may be the name of a container's port."""
    if isinstance(target, int):
        return target
    ports = [p for container in pod["spec"]["containers"] for p in container.get("ports") or ()]
    return next((p["containerPort"] for p in ports if p.get("name") == target), None)


def _without_right(error: Blocked, message: str) -> Exception:
    return Refused(message) if lacks_right(error) else error
