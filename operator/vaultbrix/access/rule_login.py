"""Logins of AccessRules with ``login: PerRule``: finalizer, Secret, login; and back again.

The finalizer stands before anything is made and goes when nothing is left, so no step is lost with the operator.
"""

import secrets
from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime

import psycopg

from vaultbrix.access.decisions import AccessVerdict
from vaultbrix.access.verdicts import Verdicts
from vaultbrix.api.accessrule import AccessRule, RuleLogin
from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.postgresserver import Endpoint, PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.grants.grant import Grant
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.owned_secret import delete_secret
from vaultbrix.kube.status import set_finalizer
from vaultbrix.postgres import scram
from vaultbrix.postgres.admin import Admin
from vaultbrix.tenants import rule_logins
from vaultbrix.tenants.credentials import ServerIdentity
from vaultbrix.tenants.decisions import tenant_role
from vaultbrix.tenants.drift.controller import RoleDrift
from vaultbrix.tenants.rule_logins import LoginTerms
from vaultbrix.tenants.secret import CredentialsSecret, ensure_credentials, server_identity

FINALIZER = "vaultbrix.com/login"


@dataclass(frozen=True)
class _Made:
    """What was made for a rule; made again when it differs from what the rule gives now."""

    rule: tuple[str, str]
    login: LoginTerms
    server: str
    database: str
    endpoint: Endpoint
    identity: ServerIdentity


class RuleLogins:
    """Makes and drops. Remembers what it made; after ``forget`` everything is looked at again."""

    def __init__(self, kube: Kube, cache: Cache, verdicts: Verdicts, admin: Admin, drift: RoleDrift) -> None:
        self._kube = kube
        self._cache = cache
        self._verdicts = verdicts
        self._admin = admin
        self._drift = drift
        self._made: dict[str, _Made] = {}
        # Uids of rules whose login is to be compared with what was made.
        self._suspect: set[str] = set()

    async def settle(self, rule: AccessRule, verdict: AccessVerdict) -> bool:
        """Make the login that the verdict gives, or drop it; returns whether there is one. Raises Expected."""
        if rule.spec.login is not RuleLogin.PER_RULE:
            return False
        tenant = self._cache.tenant_of(rule)
        server = self._cache.server_of(tenant)
        if verdict.grant is not None and tenant is not None and server is not None:
            return await self._open(rule, tenant, server, verdict.grant)
        if FINALIZER in rule.metadata.finalizers:
            await self._close(rule, server)
        return False

    def alive(self, now: datetime) -> set[tuple[str, str]]:
        """Tenant's role and rule's uid for each login that a rule accounts for.

        Of all servers: two PostgresServers may lead to one PostgreSQL.
        """
        return {
            (tenant.role, rule.metadata.uid)
            for tenant in self._cache.tenants
            for rule in self._cache.rules_of(tenant.key)
            if rule.spec.login is RuleLogin.PER_RULE
            and (FINALIZER in rule.metadata.finalizers or self._verdicts.of(rule, now).grant is not None)
        }

    async def sweep(self, connection: psycopg.AsyncConnection, now: datetime) -> list[str]:
        """Drop the logins on a server that no rule accounts for: it is gone, however it went, or has ended unseen.

        Returns what was dropped, for people.
        """
        # Read first: the rule of a login that is made meanwhile is known by then.
        claims = await rule_logins.claims(connection)
        if not claims:
            return []
        # A tenant's second login is its controller's.
        alive = self.alive(now) | {(tenant.role, tenant.metadata.uid) for tenant in self._cache.tenants}
        dropped = []
        for claim in claims:
            if (claim.role, claim.uid) not in alive:
                self._made.pop(claim.uid, None)
                if await rule_logins.try_drop(connection, claim):
                    dropped.append(f"Login {claim.login}")
        return dropped

    def made_for(self, server: PostgresServer, logins: Set[str]) -> list[tuple[str, str]]:
        """Keys of the rules on a server that have these logins, each of which is looked at when its rule is settled."""
        name = server.metadata.name
        suspect = {uid for uid, made in self._made.items() if made.server == name and made.login.login in logins}
        self._suspect |= suspect
        return [self._made[uid].rule for uid in suspect]

    def forget(self) -> None:
        """Look at every login again: somebody may have changed it, or its Secret."""
        self._made.clear()

    async def _open(self, rule: AccessRule, tenant: Tenant, server: PostgresServer, grant: Grant) -> bool:
        uid = rule.metadata.uid
        login = LoginTerms(grant.role, uid, tenant_role(tenant), grant.deadline)
        identity = await server_identity(self._admin, server)
        made = _Made(rule.key, login, server.metadata.name, server.spec.database, server.endpoint, identity)
        made_before = FINALIZER in rule.metadata.finalizers and self._made.get(uid) == made
        if made_before and uid not in self._suspect:
            return True
        self._suspect.discard(uid)
        rule = await set_finalizer(self._kube, rule, FINALIZER, present=True)
        if FINALIZER not in rule.metadata.finalizers:
            return False
        self._cache.refresh(rule)
        secret = CredentialsSecret(
            owner=rule,
            name=rule.secret_name,
            server=server,
            identity=identity,
            role=login.login,
            schema=tenant.role,
            remedy="create the AccessRule under another name",
        )
        password = await ensure_credentials(self._kube, secret)
        async with self._admin.connection(server) as connection:
            outcome = await rule_logins.provision(connection, login, password, secrets.token_bytes(scram.SALT_BYTES))
        self._made[uid] = made
        if made_before and outcome.changed:
            await self._drift.tell(rule, server, login.login, outcome.changed)
        self._drift.seen_right(server, login.login, outcome)
        return True

    async def _close(self, rule: AccessRule, server: PostgresServer | None) -> None:
        self._made.pop(rule.metadata.uid, None)
        self._suspect.discard(rule.metadata.uid)
        # Without Tenant or server there is no way to the login: the Tenant took it along, or the sweep will.
        if server is not None and is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
            async with self._admin.connection(server) as connection:
                await rule_logins.drop(connection, rule.metadata.uid)
        await delete_secret(self._kube, rule, rule.secret_name)
        await set_finalizer(self._kube, rule, FINALIZER, present=False)
