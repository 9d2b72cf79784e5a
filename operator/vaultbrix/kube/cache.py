"""Keeps objects as last seen, and how they refer to each other: our kinds, for operator and agent, and namespaces."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from vaultbrix.api.accessrule import AccessPhase, AccessRule
from vaultbrix.api.apikey import APIKey
from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.ddlapproval import FINAL_PHASES, DDLApproval
from vaultbrix.api.meta import Resource
from vaultbrix.api.namespace import Namespace
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.store import Change, R, Store

TenantKey = tuple[str, str]
"""(namespace, name) of a Tenant."""


class Cache:
    """A store for each kind. Objects in it are read and never changed; ``listener`` is called with every change."""

    def __init__(self, listener: Callable[[Change[Any]], None] = lambda _: None) -> None:
        self.listener = listener
        self.servers = Store(PostgresServer, basis=_basis_of_server)
        self.tenants = Store(Tenant, group=lambda tenant: tenant.spec.server_ref.name, basis=_basis_of_tenant)
        self.rules = Store(AccessRule, group=lambda rule: rule.tenant_key, basis=_basis_of_rule)
        self.approvals = Store(DDLApproval, group=lambda approval: approval.tenant_key, basis=_identity)
        self.api_keys = Store(APIKey, group=lambda api_key: api_key.tenant_key, basis=_basis_of_api_key)
        self.namespaces = Store(Namespace, basis=_basis_of_namespace)
        self.stores: dict[type[Resource], Store[Any]] = {
            store.model: store
            for store in (self.namespaces, self.servers, self.tenants, self.rules, self.approvals, self.api_keys)
        }
        self._open_approvals: dict[TenantKey, DDLApproval] = {}
        self._holders: dict[str, set[tuple[str, str]]] = {}

    def put(self, resource: Resource, *, own: bool = False) -> None:
        """Keep an object unless one as new is here already. ``own``: it is the answer to a write of this process."""
        self._changed(self.stores[type(resource)].put(resource, own=own))

    def remove(self, model: type[Resource], namespace: str, name: str) -> None:
        """Forget an object."""
        self._changed(self.stores[model].remove(namespace, name))

    def refresh(self, resource: R, *, own: bool = True) -> None:
        """Keep the API server's answer to a write of this process. ``own``: nothing has to be decided again for it.

        Does nothing if the object is gone meanwhile, or is another one of the same name.
        """
        cached = self.stores[type(resource)].get(*resource.key)
        if cached is not None and cached.metadata.uid == resource.metadata.uid:
            self.put(resource, own=own)

    def server_of(self, tenant: Tenant | None) -> PostgresServer | None:
        """Return the tenant's server, or None while it does not exist."""
        return self.servers.get("", tenant.spec.server_ref.name) if tenant is not None else None

    def tenant_of(self, dependent: AccessRule | DDLApproval | APIKey) -> Tenant | None:
        """Return the tenant that a rule, an approval or a key names, or None while it does not exist."""
        return self.tenants.get(*dependent.tenant_key)

    def tenants_of(self, server: str) -> list[Tenant]:
        """Return the tenants that name the server."""
        return self.tenants.of(server)

    def rules_of(self, tenant: TenantKey) -> list[AccessRule]:
        """Return the rules that name the tenant."""
        return self.rules.of(tenant)

    def approvals_of(self, tenant: TenantKey) -> list[DDLApproval]:
        """Return the approvals that name the tenant."""
        return self.approvals.of(tenant)

    def api_keys_of(self, tenant: TenantKey) -> list[APIKey]:
        """Keys that name the tenant."""
        return self.api_keys.of(tenant)

    def api_key_by_sha256(self, sha256: str) -> APIKey | None:
        """The APIKey whose status has the hash of a key's text, be it good or not; None where several claim it."""
        holders = self._holders.get(sha256, set())
        return self.api_keys.get(*next(iter(holders))) if len(holders) == 1 else None

    def open_approvals(self, server: str) -> list[tuple[DDLApproval, Tenant]]:
        """Return the approvals of the server's tenants that are in no final phase, each with its tenant."""
        open_ = [(approval, self.tenant_of(approval)) for approval in self._open_approvals.values()]
        return [
            (approval, tenant)
            for approval, tenant in open_
            if tenant is not None and tenant.spec.server_ref.name == server
        ]

    def _changed(self, change: Change[Any] | None) -> None:
        if change is None:
            return
        if isinstance(change.resource, DDLApproval):
            if change.gone or change.resource.status.phase in FINAL_PHASES:
                self._open_approvals.pop(change.resource.key, None)
            else:
                self._open_approvals[change.resource.key] = change.resource
        if isinstance(change.resource, APIKey) and change.decisive:
            self._index_hashes(change)
        self.listener(change)

    def _index_hashes(self, change: Change[APIKey]) -> None:
        key = change.resource.key
        for sha256 in _hashes(change.before) if change.before is not None else ():
            holders = self._holders.get(sha256, set())
            holders.discard(key)
            if not holders:
                self._holders.pop(sha256, None)
        for sha256 in _hashes(change.after) if change.after is not None else ():
            self._holders.setdefault(sha256, set()).add(key)


def _hashes(api_key: APIKey) -> Iterator[str]:
    """Of its keys, and of the one that was replaced last, which is refused in its name."""
    receipt = api_key.status.receipt
    yield from (entry.sha256 for entry in api_key.status.keys)
    if receipt is not None and receipt.sha256 is not None:
        yield receipt.sha256


def _identity(resource: Resource) -> tuple[Hashable, ...]:
    return (resource.metadata.uid, resource.metadata.generation, resource.deleting)


def _basis_of_namespace(namespace: Namespace) -> Hashable:
    """The part of a namespace that decisions on its Tenants rest on."""
    return tuple(sorted(namespace.metadata.labels.items()))


def _basis_of_server(server: PostgresServer) -> Hashable:
    """The part of a server that decisions on other objects rest on; what agents say of themselves is no such part."""
    installed = is_true(server.status.conditions, ConditionType.GATE_INSTALLED)
    return (*_identity(server), installed, server.status.gate_version, server.client_ssl_mode)


def _basis_of_tenant(tenant: Tenant) -> Hashable:
    """The part of a tenant that decisions on its rules, approvals and keys rest on."""
    status = tenant.status
    return (*_identity(tenant), is_true(status.conditions, ConditionType.PROVISIONED), status.data_api)


def _basis_of_rule(rule: AccessRule) -> Hashable:
    """The part of a rule that verdicts rest on; reports of agents and operator are no such part."""
    status = rule.status
    return (*_identity(rule), status.phase is AccessPhase.REVOKED, status.opened_at is not None, status.closed_at)


def _basis_of_api_key(api_key: APIKey) -> Hashable:
    """What is decided on a key rests on all but its conditions, when it was last used, and what a receipt counts."""
    status = api_key.status
    made = (status.secret_name, status.rotate_token, tuple(_hashes(api_key)), tuple(status.keys))
    return (*_identity(api_key), status.phase, status.expires_at, status.closed_at, *made)
