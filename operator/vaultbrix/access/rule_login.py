"""Logins of AccessRules with ``login: PerRule``: finalizer, Secret, login; and back again.

The finalizer stands before anything is made and goes when nothing is left, so no step is lost with the operator.
"""

import secrets
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
from vaultbrix.tenants.decisions import tenant_role
from vaultbrix.tenants.rule_logins import LoginTerms
from vaultbrix.tenants.secret import CredentialsSecret, ensure_credentials

FINALIZER = "vaultbrix.com/login"


@dataclass(frozen=True)
class _Made:
    """What was made for a rule; made again when it differs from what the rule gives now."""

    login: LoginTerms
    server: str
    database: str
    endpoint: Endpoint


class RuleLogins:
    """Makes and drops. Remembers what it made; after ``forget`` everything is looked at again."""

    def __init__(self, kube: Kube, cache: Cache, verdicts: Verdicts, admin: Admin) -> None:
        self._kube = kube
        self._cache = cache
        self._verdicts = verdicts
        self._admin = admin
        self._made: dict[str, _Made] = {}

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

    async def sweep(self, connection: psycopg.AsyncConnection, now: datetime) -> None:
        """Drop the logins on a server that no rule accounts for: it is gone, however it went, or has ended unseen."""
        # Read first: the rule of a login that is made meanwhile is known by then.
        claims = await rule_logins.claims(connection)
        if not claims:
            return
        # Of all servers: two PostgresServers may lead to one PostgreSQL.
        alive = {
            (tenant.role, rule.metadata.uid)
            for tenant in self._cache.tenants
            for rule in self._cache.rules_of(tenant.key)
            if rule.spec.login is RuleLogin.PER_RULE
            and (FINALIZER in rule.metadata.finalizers or self._verdicts.of(rule, now).grant is not None)
        }
        for claim in claims:
            if (claim.role, claim.rule_uid) not in alive:
                self._made.pop(claim.rule_uid, None)
                await rule_logins.try_drop(connection, claim)

    def forget(self) -> None:
        """Look at every login again: somebody may have changed it, or its Secret."""
        self._made.clear()

    async def _open(self, rule: AccessRule, tenant: Tenant, server: PostgresServer, grant: Grant) -> bool:
        uid = rule.metadata.uid
        login = LoginTerms(grant.role, uid, tenant_role(tenant), grant.deadline)
        made = _Made(login, server.metadata.name, server.spec.database, server.endpoint)
        if FINALIZER in rule.metadata.finalizers and self._made.get(uid) == made:
            return True
        rule = await set_finalizer(self._kube, rule, FINALIZER, present=True)
        if FINALIZER not in rule.metadata.finalizers:
            return False
        self._cache.refresh(rule)
        secret = CredentialsSecret(
            owner=rule,
            name=rule.secret_name,
            server=server,
            role=login.login,
            schema=tenant.role,
            remedy="create the AccessRule under another name",
        )
        password = await ensure_credentials(self._kube, secret)
        async with self._admin.connection(server) as connection:
            await rule_logins.provision(connection, login, password, secrets.token_bytes(scram.SALT_BYTES))
        self._made[uid] = made
        return True

    async def _close(self, rule: AccessRule, server: PostgresServer | None) -> None:
        self._made.pop(rule.metadata.uid, None)
        # Without Tenant or server there is no way to the login: the Tenant took it along, or the sweep will.
        if server is not None and is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
            async with self._admin.connection(server) as connection:
                await rule_logins.drop(connection, rule.metadata.uid)
        await delete_secret(self._kube, rule, rule.secret_name)
        await set_finalizer(self._kube, rule, FINALIZER, present=False)
