"""Connects the operator to a server and to its audit store, with the Secrets that the PostgresServer names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import PostgresServer, SecretRef
from vaultbrix.kube.client import NotFound
from vaultbrix.kube.owned_secret import decoded
from vaultbrix.kube.rights import lacks_right
from vaultbrix.kube.secrets import Secrets
from vaultbrix.postgres.connect import Target
from vaultbrix.postgres.pool import Pool
from vaultbrix.postgres.server_secret import certificates_of, check_for_server, text_of
from vaultbrix.runtime.errors import Blocked

ADMIN_APPLICATION = "vaultbrix-operator"
"""Under which the operator's statements on a server are on record."""

# A tenant that holds a lock must not hold a worker.
_ADMIN_TIMEOUTS = "-c lock_timeout=5s -c statement_timeout=60s"
_READER_TIMEOUTS = "-c statement_timeout=30s -c default_transaction_read_only=on"
_MANAGER_TIMEOUTS = "-c statement_timeout=10min"


class Admin:
    """Opens connections as a server's admin, and to its audit store. Changed credentials are used at once."""

    def __init__(self, secrets: Secrets, pool: Pool) -> None:
        self.secrets = secrets
        self._pool = pool

    @asynccontextmanager
    async def connection(self, server: PostgresServer) -> AsyncIterator[psycopg.AsyncConnection]:
        """An autocommit connection as the admin. Raises Blocked or Transient, also for statements run inside."""
        async with self._pool.connection(await self.target(server)) as connection:
            yield connection

    @asynccontextmanager
    async def audit_reader(self, server: PostgresServer) -> AsyncIterator[psycopg.AsyncConnection]:
        """A connection to the audit store as its reader. Raises as ``connection``, Blocked also where none is named."""
        reference, field = server.spec.audit_secret_ref, "spec.auditSecretRef"
        target = await self._store(server, reference, field, _READER_TIMEOUTS)
        async with self._pool.connection(target) as connection:
            yield connection

    @asynccontextmanager
    async def audit_manager(self, server: PostgresServer) -> AsyncIterator[psycopg.AsyncConnection]:
        """A connection to the audit store as its manager, who applies retention. Raises as ``audit_reader``."""
        reference, field = server.spec.audit_manager_secret_ref, "spec.auditManagerSecretRef"
        target = await self._store(server, reference, field, _MANAGER_TIMEOUTS)
        async with self._pool.connection(target) as connection:
            yield connection

    async def target(self, server: PostgresServer) -> Target:
        """Where the server is and who the admin is.

        Raises Blocked for a Secret that is missing or incomplete, or does not say that it is for this server.
        """
        spec = server.spec
        data = await self._read(server, spec.admin_secret_ref, "spec.adminSecretRef")
        return Target(
            host=spec.host,
            port=spec.port,
            database=spec.database,
            user=text_of(data, "username", spec.admin_secret_ref, "spec.adminSecretRef"),
            password=text_of(data, "password", spec.admin_secret_ref, "spec.adminSecretRef"),
            ssl_mode=spec.tls.mode,
            ca=await self.certificate_authority(server),
            certificate=decoded(data).get("tls.crt", ""),
            key=decoded(data).get("tls.key", ""),
            application=ADMIN_APPLICATION,
            options=_ADMIN_TIMEOUTS,
        )

    async def certificate_authority(self, server: PostgresServer) -> str:
        """PEM text of the CA, empty where none is named. Raises Blocked as ``target``, and for what is no CA."""
        reference, field = server.spec.tls.ca_secret_ref, "spec.tls.caSecretRef"
        if reference is None:
            return ""
        return certificates_of(await self._read(server, reference, field), reference.key, reference, field)

    async def _store(self, server: PostgresServer, reference: SecretRef | None, field: str, options: str) -> Target:
        if reference is None:
            raise Blocked(Reason.SECRET_NOT_FOUND, f"{field} is not set")
        data = await self._read(server, reference, field)
        host, port, database, user, password, authority = (
            text_of(data, key, reference, field) for key in ("host", "port", "dbname", "username", "password", "ca.crt")
        )
        if not port.isdecimal():
            raise Blocked(
                Reason.SECRET_INVALID,
                f"{field}: Secret {reference.namespace}/{reference.name} has no number in key port",
            )
        return Target(
            host=host,
            port=int(port),
            database=database,
            user=user,
            password=password,
            ca=authority,
            application=ADMIN_APPLICATION,
            options=options,
        )

    async def _read(self, server: PostgresServer, reference: SecretRef, field: str) -> dict[str, str]:
        """What a Secret that the server names holds, encoded. No Secret of a server is read in another way."""
        try:
            secret = await self.secrets.get(reference.namespace, reference.name)
        except NotFound:
            raise Blocked(
                Reason.SECRET_NOT_FOUND,
                f"{field}: Secret {reference.namespace}/{reference.name} does not exist; create it",
            ) from None
        except Blocked as error:
            if not lacks_right(error):
                raise
            raise Blocked(
                Reason.FORBIDDEN,
                f"{field}: the operator may not read Secret {reference.namespace}/{reference.name}; add "
                f"{reference.name} to rbac.serverSecrets of the chart, or, in another namespace than the release's, "
                "bind a Role that lets the operator get and watch it by its name",
            ) from None
        check_for_server(secret, server.metadata.name, field)
        data: dict[str, str] = secret.get("data") or {}
        return data
