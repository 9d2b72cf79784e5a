"""Verdicts on the rules of a Tenant, decided again only when an object or the time changes one."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from vaultbrix.access.decisions import AccessVerdict, decide_all
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.cache import Cache, TenantKey


class Objections(Protocol):
    """Which approvals do not count: asked again when the version is another."""

    def version(self, tenant: TenantKey) -> tuple[int, ...]: ...

    def objections(self, rules: Iterable[AccessRule], server: PostgresServer | None) -> dict[str, str]: ...


_Basis = tuple[tuple[int, ...], Tenant | None, PostgresServer | None]


@dataclass
class _Decided:
    """Verdicts with what they rest on, and the time until which they hold."""

    basis: _Basis
    since: datetime
    until: datetime | None
    verdicts: dict[str, AccessVerdict]

    def holds(self, basis: _Basis, now: datetime) -> bool:
        """Whether nothing that counts has changed. Objects in a store are replaced, never changed."""
        same = self.basis[0] == basis[0] and self.basis[1] is basis[1] and self.basis[2] is basis[2]
        return same and self.since <= now and (self.until is None or now < self.until)


class Verdicts:
    """The verdicts on all rules in the cache."""

    def __init__(self, cache: Cache, guard: Objections) -> None:
        self._cache = cache
        self._guard = guard
        self._decided: dict[TenantKey, _Decided] = {}

    def of_tenant(self, tenant: TenantKey, now: datetime) -> dict[str, AccessVerdict]:
        """uid → verdict for all rules that name the tenant."""
        version = self._cache.rules.version(tenant)
        if not version:
            self._decided.pop(tenant, None)
            return {}
        owner = self._cache.tenants.get(*tenant)
        server = self._cache.server_of(owner)
        basis = ((version, *self._guard.version(tenant)), owner, server)
        decided = self._decided.get(tenant)
        if decided is None or not decided.holds(basis, now):
            rules = self._cache.rules_of(tenant)
            verdicts = decide_all(rules, owner, server, now, unguarded=self._guard.objections(rules, server))
            turns = [when for v in verdicts.values() for when in (v.opens_at, v.deadline) if when and when > now]
            decided = _Decided(basis, now, min(turns, default=None), verdicts)
            self._decided[tenant] = decided
        return decided.verdicts

    def of(self, rule: AccessRule, now: datetime) -> AccessVerdict:
        """The verdict on a rule that is in the cache."""
        return self.of_tenant(rule.tenant_key, now)[rule.metadata.uid]
