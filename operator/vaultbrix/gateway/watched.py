"""What the gateway watches: APIKeys and Tenants as the API server has them, and the keys of tenants' users.

While the API server is away, what was known last holds: a key that was revoked stays revoked, and ends come by the
clock. A gateway that starts then knows nothing and lets nobody in.
"""

import asyncio
import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from vaultbrix.api.apikey import APIKey
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant, UserTokens
from vaultbrix.gateway.jwks import KeySets
from vaultbrix.gateway.jwt import TokenKey, secret_key
from vaultbrix.gateway.known import KnownKey, KnownTenant, ObjectKey
from vaultbrix.gateway.objects import known_key, known_tenant
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube, NotFound
from vaultbrix.kube.informer import Informer
from vaultbrix.kube.secrets import SecretKey, Secrets
from vaultbrix.kube.store import Change
from vaultbrix.runtime.queue import WorkQueue

log = structlog.get_logger(__name__)

_READ_AT_ONCE = 4
# For Secrets that may be read and not watched.
_READ_AGAIN = timedelta(minutes=1)


class Watched:
    """As ``known.Known``, from informers. ``changed`` is called with each Tenant and PostgresServer that changes."""

    def __init__(self, kube: Kube, secrets: Secrets, key_sets: KeySets) -> None:
        self._secrets = secrets
        self._key_sets = key_sets
        self.changed: Callable[[Tenant | PostgresServer], None] = lambda _: None
        self.cache = Cache(self._changed)
        self._informers: tuple[Informer[Any], ...] = (
            Informer(kube, self.cache, Tenant),
            Informer(kube, self.cache, APIKey),
            Informer(kube, self.cache, PostgresServer),
        )
        self._secret_keys: dict[ObjectKey, tuple[TokenKey, ...]] = {}
        self._secret_of: dict[ObjectKey, SecretKey] = {}
        self._users_of: dict[SecretKey, set[ObjectKey]] = {}
        self._tenants: dict[ObjectKey, tuple[Tenant, KnownTenant]] = {}
        self._to_read: WorkQueue[ObjectKey] = WorkQueue(self._read_secret, workers=_READ_AT_ONCE, name="users")
        secrets.on_change(self._secret_changed)

    @property
    def synced(self) -> bool:
        """Whether every object that existed at the start is known."""
        return all(informer.synced.is_set() for informer in self._informers)

    def key(self, sha256: str) -> KnownKey | None:
        """The key whose text has this hash; none where two objects claim it."""
        api_key = self.cache.api_key_by_sha256(sha256)
        return known_key(api_key, sha256) if api_key is not None else None

    def tenant(self, name: ObjectKey) -> KnownTenant | None:
        """The tenant of that name, with the keys of its users as last read."""
        tenant = self.cache.tenants.get(*name)
        if tenant is None:
            return None
        data_api = tenant.spec.data_api
        tokens = data_api.jwt if data_api is not None else None
        keys = self._keys(name, tokens)
        kept = self._tenants.get(name)
        if kept is not None and kept[0] is tenant and (kept[1].users is None or kept[1].users.keys == keys):
            return kept[1]
        found = known_tenant(tenant, keys)
        self._tenants[name] = (tenant, found)
        return found

    def sources(self) -> Iterator[str]:
        """The URLs of all issuers that served tenants name."""
        for tenant in self.cache.tenants:
            data_api = tenant.spec.data_api
            if data_api is not None and data_api.enabled and data_api.jwt is not None and data_api.jwt.jwks_url:
                yield data_api.jwt.jwks_url

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.run())
            group.create_task(self._to_read.run())
            group.create_task(self._key_sets.run(self.sources))

    def _keys(self, tenant: ObjectKey, tokens: UserTokens | None) -> tuple[TokenKey, ...]:
        if tokens is None:
            return ()
        return self._key_sets.keys(tokens.jwks_url) if tokens.jwks_url else self._secret_keys.get(tenant, ())

    def _changed(self, change: Change[Any]) -> None:
        if isinstance(change.resource, Tenant | PostgresServer):
            self.changed(change.resource)
        if not isinstance(change.resource, Tenant):
            return
        name = change.resource.key
        if change.gone:
            self._tenants.pop(name, None)
        self._to_read.add(name)

    def _secret_changed(self, secret: SecretKey) -> None:
        for tenant in self._users_of.get(secret, ()):
            self._to_read.add(tenant)

    async def _read_secret(self, name: ObjectKey) -> datetime | None:
        """Have the secret of a tenant's users known as it is; one that is gone or too short is none."""
        tenant = self.cache.tenants.get(*name)
        data_api = tenant.spec.data_api if tenant is not None else None
        reference = data_api.jwt.secret_ref if data_api is not None and data_api.jwt is not None else None
        secret = (name[0], reference.name) if reference is not None else None
        self._refer(name, secret)
        if secret is None or reference is None:
            self._secret_keys.pop(name, None)
            return None
        try:
            data = (await self._secrets.get(*secret)).get("data") or {}
            self._secret_keys[name] = (secret_key(base64.b64decode(data.get(reference.key, ""), validate=True)),)
        except (NotFound, ValueError) as error:
            self._secret_keys.pop(name, None)
            log.warning("the secret of a tenant's users cannot be used", tenant="/".join(name), message=str(error))
        return datetime.now(UTC) + _READ_AGAIN

    def _refer(self, tenant: ObjectKey, secret: SecretKey | None) -> None:
        """Note which Secret a tenant's users are verified with."""
        before = self._secret_of.pop(tenant, None)
        if before is not None:
            self._users_of[before].discard(tenant)
            if not self._users_of[before]:
                del self._users_of[before]
        if secret is not None:
            self._secret_of[tenant] = secret
            self._users_of.setdefault(secret, set()).add(tenant)
