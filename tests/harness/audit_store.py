"""The audit store: a PostgreSQL of its own with the product's schema, and the Secret that the shipper is given."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from tests.harness.postgres import Postgres
from tests.harness.slot import SLOT

from vaultbrix.audit import schema, seal
from vaultbrix.postgres import scram
from vaultbrix.postgres.connect import pinned

PORT = 15432 + SLOT
DATABASE = "audit"


class Store:
    """Reached by shippers over TLS at localhost or ``postgres.test``, by tests over the Unix socket."""

    def __init__(self, directory: Path, *, port: int = PORT, listen: str = "127.0.0.1") -> None:
        directory.mkdir(mode=0o755)
        self.postgres = Postgres(
            directory / "postgres",
            hba=f"hostssl {DATABASE} +audit_append,+audit_read,+audit_tenant,+audit_redact,+audit_manage"
            " 127.0.0.0/8 scram-sha-256\n"
            f"hostssl {DATABASE} +audit_append 172.16.0.0/12 scram-sha-256\n",
            settings={"listen_addresses": listen, "shared_preload_libraries": "", "log_duration": "off"},
            port=port,
        )
        self.secret = directory / "secret"
        self.secret.mkdir()
        self._password = secrets.token_urlsafe(16)
        self._reader_password = secrets.token_urlsafe(16)
        self.signing_key, self.public_key = seal.new_key()

    def start(self) -> None:
        """Start it, with schema and logins."""
        self.postgres.start()
        self.postgres.query(f"CREATE DATABASE {DATABASE}")
        asyncio.run(self._prepare())
        for key, value in {**self._values("shipper", self._password), "signing.key": self.signing_key}.items():
            (self.secret / key).write_text(value)

    def stop(self) -> None:
        """End it."""
        self.postgres.stop()

    def query(self, statement: LiteralString, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement as the store's owner; returns its rows."""
        with self.open() as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def open(self, **options: Any) -> psycopg.Connection:
        """A connection as the store's owner."""
        return psycopg.connect(
            host=str(self.postgres.socket),
            port=self.postgres.port,
            user="postgres",
            dbname=DATABASE,
            autocommit=True,
            **options,
        )

    @property
    def reader(self) -> dict[str, str]:
        """What the Secret of a reader holds."""
        return {**self._values("auditor", self._reader_password), "signing.pub": self.public_key}

    def bind(self, server: str, login: str = "shipper") -> None:
        """Let a shipper's login ship one more server, as tests that ship several by one login need it."""
        statement = "INSERT INTO audit.shipper(login, server) VALUES (%s, %s) ON CONFLICT DO NOTHING"
        self.query(statement, [login, server])

    def login(self, name: str, group: str) -> dict[str, str]:
        """A login of one of the store's groups; returns what its Secret holds."""
        password = secrets.token_urlsafe(16)
        asyncio.run(self._ensure([(name, password, group)]))
        return self._values(name, password)

    def environment(self, login: dict[str, str]) -> dict[str, str]:
        """libpq's variables for a login."""
        return {
            "PGHOST": login["host"],
            "PGPORT": login["port"],
            "PGDATABASE": login["dbname"],
            "PGUSER": login["username"],
            "PGPASSWORD": login["password"],
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(self.postgres.authority),
        }

    def _values(self, username: str, password: str) -> dict[str, str]:
        return {
            "host": "localhost",
            "port": str(self.postgres.port),
            "dbname": DATABASE,
            "username": username,
            "password": password,
            "ca.crt": self.postgres.authority.read_text(),
        }

    async def _prepare(self) -> None:
        async with self._owner() as connection:
            await schema.migrate(connection)
        await self._ensure(
            [("shipper", self._password, "audit_append"), ("auditor", self._reader_password, "audit_read")]
        )
        await self._bind("main")

    async def _bind(self, server: str) -> None:
        async with self._owner() as connection:
            await connection.execute("INSERT INTO audit.shipper(login, server) VALUES ('shipper', %s)", [server])

    async def _ensure(self, logins: Sequence[tuple[str, str, str]]) -> None:
        async with self._owner() as connection:
            for name, password, group in logins:
                verifier = scram.verifier(password, secrets.token_bytes(scram.SALT_BYTES))
                await schema.ensure_login(connection, name=name, group=group, verifier=verifier)

    @asynccontextmanager
    async def _owner(self) -> AsyncIterator[psycopg.AsyncConnection]:
        async with await psycopg.AsyncConnection.connect(
            host=str(self.postgres.socket),
            port=self.postgres.port,
            user="postgres",
            dbname=DATABASE,
            options=pinned(),
            autocommit=True,
        ) as connection:
            yield connection


def open_as(environment: dict[str, str]) -> psycopg.Connection:
    """A connection as libpq makes it with these variables."""
    return psycopg.connect(
        host=environment["PGHOST"],
        port=environment["PGPORT"],
        dbname=environment["PGDATABASE"],
        user=environment["PGUSER"],
        password=environment["PGPASSWORD"],
        sslmode=environment["PGSSLMODE"],
        sslrootcert=environment["PGSSLROOTCERT"],
        autocommit=True,
    )
