"""Objects as the API server returns them, with only what a test says about them being special."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.apikey import APIKey
from vaultbrix.api.conditions import Condition
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.namespace import Namespace
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.grants.grant import Grant

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)

Raw = dict[str, Any]


def meta(name: str, **fields: Any) -> Raw:
    return {
        "name": name,
        "namespace": "team",
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": rfc3339(NOW),
        **fields,
    }


def true(*types: str) -> list[Raw]:
    return [
        {"type": t, "status": "True", "reason": t, "message": "", "lastTransitionTime": rfc3339(NOW)} for t in types
    ]


def rule(name: str = "jane", *, metadata: Raw | None = None, status: Raw | None = None, **spec: Any) -> AccessRule:
    """A rule for tenant acme, two hours from NOW unless ttl or expiresAt says otherwise."""
    life = {} if "expiresAt" in spec else {"ttl": "2h"}
    wanted = {
        "tenantRef": {"name": "acme"},
        "cidrs": ["203.0.113.7/32"],
        "reason": "CHG-1",
        "requestedBy": "jane@example.com",
        **life,
        **spec,
    }
    return AccessRule.parse({"metadata": meta(name, **(metadata or {})), "spec": wanted, "status": status or {}})


def tenant(
    name: str = "acme", *, metadata: Raw | None = None, ready: bool = True, status: Raw | None = None, **spec: Any
) -> Tenant:
    status = status or {"conditions": true("Provisioned") if ready else []}
    wanted = {"serverRef": {"name": "main"}, **spec}
    return Tenant.parse({"metadata": meta(name, **(metadata or {})), "spec": wanted, "status": status})


def namespace(name: str = "team", **labels: str) -> Namespace:
    """A namespace with labels; that of its name is there as on any."""
    named = {"kubernetes.io/metadata.name": name}
    return Namespace.parse({"metadata": meta(name, namespace="", labels={**named, **labels})})


def server(name: str = "main", **spec: Any) -> PostgresServer:
    wanted = {
        "host": "pg.example.com",
        "tls": {"caSecretRef": {"name": "ca", "namespace": "system"}},
        "adminSecretRef": {"name": "admin", "namespace": "system"},
        "allowedNamespaces": {"from": "All"},
        **spec,
    }
    return PostgresServer.parse({"metadata": meta(name, namespace=""), "spec": wanted})


def approval(name: str = "drop", *, metadata: Raw | None = None, status: Raw | None = None, **spec: Any) -> DDLApproval:
    wanted = {
        "tenantRef": {"name": "acme"},
        "sql": "DROP TABLE a",
        "reason": "CHG-2",
        "requestedBy": "jane@example.com",
        **spec,
    }
    # A decision counts only on what was shown.
    shown = {"sha256": "a" * 64} if "decision" in spec else {}
    return DDLApproval.parse(
        {"metadata": meta(name, **(metadata or {})), "spec": wanted, "status": {**shown, **(status or {})}}
    )


def api_key(name: str = "shop", *, metadata: Raw | None = None, status: Raw | None = None, **spec: Any) -> APIKey:
    """A secret key of tenant acme that lasts until it is revoked."""
    wanted = {
        "tenantRef": {"name": "acme"},
        "kind": "Secret",
        "reason": "CHG-3",
        "requestedBy": "jane@example.com",
        **spec,
    }
    return APIKey.parse({"metadata": meta(name, **(metadata or {})), "spec": wanted, "status": status or {}})


def grant(*cidrs: str, uid: str = "u", role: str = "tenant_acme", deadline: datetime = NOW + HOUR) -> Grant:
    return Grant(
        rule=f"team/{uid}",
        uid=uid,
        generation=1,
        tenant="team/acme",
        role=role,
        cidrs=cidrs,
        deadline=deadline,
        requested_by="jane@example.com",
        reason="CHG-1",
    )


def named(conditions: Iterable[Condition], type_: str) -> Condition:
    """The one condition of that type."""
    (found,) = [c for c in conditions if c.type == type_]
    return found
