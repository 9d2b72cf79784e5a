"""What PostgREST is run for, from the objects that the gateway watches, and where changes of schemas are told."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import psycopg
import structlog

from vaultbrix.api.conditions import ConditionType, is_true
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.serving.decisions import LISTENER, password_of, rest_login
from vaultbrix.dataapi.serving.secret import ServerAccess, read_server_secret
from vaultbrix.gateway.known import ObjectKey
from vaultbrix.gateway.objects import is_served
from vaultbrix.gateway.postgrest import Served
from vaultbrix.gateway.refusals import Refusal
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.secrets import Secrets
from vaultbrix.postgres.connect import Target, conninfo, open_connection
from vaultbrix.postgres.pool import Pool
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

CHANNEL = "vaultbrix_ddl"


class Backends:
    """Looks up tenants and servers; ``namespace`` is the operator's, where the servers' Secrets are."""

    def __init__(self, cache: Cache, secrets: Secrets, pool: Pool, namespace: str) -> None:
        self._cache = cache
        self._secrets = secrets
        self._pool = pool
        self._namespace = namespace

    async def served(self, name: ObjectKey) -> Served | None:
        """What the tenant's PostgREST is run for; None for one that is not served. Raises Expected."""
        tenant = self._cache.tenants.get(*name)
        server = self._cache.server_of(tenant)
        data_api = server.spec.data_api if server is not None else None
        if tenant is None or server is None or data_api is None or not is_served(tenant):
            return None
        login = rest_login(tenant.role)
        return Served(
            tenant=name,
            server=server.metadata.name,
            schema=tenant.role,
            conninfo=conninfo(replace(await self._target(server, login), any_libpq=True)),
            max_rows=_max_rows(tenant),
            # Good with and without a certificate for the tenants' own hosts.
            url=data_api.url,
        )

    def servers(self) -> list[str]:
        """The servers that have a data API."""
        return [
            server.metadata.name
            for server in self._cache.servers
            if is_true(server.status.conditions, ConditionType.DATA_API_READY)
        ]

    def server_of(self, refusal: Refusal) -> str | None:
        """The server of the tenant whose key was used; None where that is not known."""
        tenant = self._cache.tenants.get(*refusal.tenant) if refusal.tenant is not None else None
        name = tenant.spec.server_ref.name if tenant is not None else None
        return name if name in self.servers() else None

    async def note(self, server: str, refusals: str) -> None:
        """Have refusals, a JSON array of objects, put on record. Raises Expected; nothing for a server that is gone."""
        target = await self.listener(server)
        if target is not None:
            async with self._pool.connection(target) as connection:
                await connection.execute("SELECT vaultbrix.note_refusals(%s::jsonb)", [refusals])

    async def listener(self, name: str) -> Target | None:
        """How to connect to hear of changed schemas; None for a server that is gone. Raises Expected."""
        server = self._cache.servers.get("", name)
        return await self._target(server, LISTENER) if server is not None else None

    async def _target(self, server: PostgresServer, login: str) -> Target:
        access: ServerAccess = await read_server_secret(self._secrets, self._namespace, server)
        spec = server.spec
        return Target(
            host=spec.host,
            port=spec.port,
            database=spec.database,
            user=login,
            password=password_of(access.key, login),
            ssl_mode=spec.tls.mode,
            ca=access.authority,
            application="vaultbrix-gateway",
        )


class Listeners:
    """One connection to each server for which something runs; ``changed`` is told server and schema.

    After a time without a connection anything may have changed: the schema is None.
    """

    def __init__(
        self, target: Callable[[str], Awaitable[Target | None]], changed: Callable[[str, str | None], None]
    ) -> None:
        self._target = target
        self._changed = changed
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ensure(self, server: str) -> None:
        """Have changes on the server told from now on, while it exists."""
        if server not in self._tasks:
            task = self._tasks[server] = asyncio.create_task(self._listen(server))
            task.add_done_callback(lambda _: self._tasks.pop(server, None))

    async def close(self) -> None:
        """End all."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, server: str) -> None:
        failures = 0
        while True:
            try:
                target = await self._target(server)
                if target is None:
                    return
                async with await open_connection(target) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    failures = 0
                    self._changed(server, None)
                    async for notice in connection.notifies():
                        self._changed(server, notice.payload)
            except (Expected, psycopg.Error, OSError) as error:
                failures += 1
                log.warning("changes of schemas are not heard of", server=server, error=type(error).__name__)
            await asyncio.sleep(pause_after(max(1, failures), 0.0))


def _max_rows(tenant: Tenant) -> int:
    assert tenant.spec.data_api is not None
    return tenant.spec.data_api.max_rows
