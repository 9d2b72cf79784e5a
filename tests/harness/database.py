"""A database with the gate as the operator installs it, and tenants that log in with a password over TLS."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from tests.harness.postgres import Postgres
from tests.harness.shell import run
from tests.harness.slot import folder

from vaultbrix.ddl.gate import schema
from vaultbrix.postgres import roles
from vaultbrix.postgres.connect import pinned
from vaultbrix.postgres.roles import LoginRole, Outcome
from vaultbrix.tenants import role as tenants
from vaultbrix.tenants.decisions import TenantRole
from vaultbrix.tenants.placement import Owner, Placement

P = ParamSpec("P")
T = TypeVar("T")

PASSWORD = "correct-horse-battery"
SALT = b"0123456789abcdef"

ANYWHERE = Placement("main", refusal=None, max_tenants=None)
"""What holds for a new Tenant where its namespace is let in, and any number of Tenants."""


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory that user postgres may enter; gone afterwards."""
    path = folder()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def desired_role(role: str, **changes: Any) -> TenantRole:
    """What a plain Tenant asks for."""
    values = {"owner": owner(role), "login": True, "connection_limit": 20, "settings": {"lock_timeout": "5s"}}
    return TenantRole(role=role, **{**values, **changes})


def owner(name: str, namespace: str = "team", **changes: Any) -> Owner:
    """A Tenant object of that name, the first of it unless it says otherwise."""
    values = {"uid": f"uid-{namespace}-{name}", "created": datetime(2020, 1, 1, tzinfo=UTC)}
    return Owner(namespace, name, **{**values, **changes})


class Database:
    """One PostgreSQL with what the operator does to it."""

    # Set where the gate is off for good.
    disarmed = False

    def __init__(self, path: Path, settings: Mapping[str, str] | None = None) -> None:
        self.postgres = Postgres(
            path / "postgres",
            hba="hostssl all all 127.0.0.0/8 scram-sha-256\n",
            settings={"listen_addresses": "127.0.0.1", **(settings or {})},
            port=free_port(),
        )

    @property
    def authority(self) -> Path:
        """CA of its certificate, which is for ``localhost``."""
        return self.postgres.authority

    def admin(
        self,
        function: Callable[Concatenate[psycopg.AsyncConnection, P], Awaitable[T]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Run one of the operator's functions with a superuser's connection."""

        async def call() -> T:
            async with await psycopg.AsyncConnection.connect(
                host=str(self.postgres.socket),
                port=self.postgres.port,
                user="postgres",
                dbname="postgres",
                options=pinned(),
                autocommit=True,
            ) as connection:
                return await function(connection, *arguments, **named)

        return asyncio.run(call())

    def tenant(self, slug: str, **changes: Any) -> str:
        """Provision a tenant with PASSWORD; returns its role."""
        role = f"tenant_{slug}"
        self.provision(desired_role(role, **changes))
        return role

    def provision(
        self, desired: TenantRole, password: str = PASSWORD, salt: bytes = SALT, placement: Placement = ANYWHERE
    ) -> Outcome:
        """Provision a tenant as the operator does."""
        return self.admin(tenants.provision, desired, placement, password, salt)

    def tenant_without_uid(self, slug: str) -> str:
        """A tenant with PASSWORD as a release made it that noted no uids; returns its role."""
        role = f"tenant_{slug}"
        owner_ = owner(role)
        login = LoginRole(
            role, login=True, connection_limit=20, mark="vaultbrix_tenants", search_path=role, settings={}
        )

        async def make(connection: psycopg.AsyncConnection) -> None:
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO vaultbrix.tenant(role_name, namespace, name) VALUES (%s, %s, %s)",
                    [role, owner_.namespace, owner_.name],
                )
                await roles.ensure(connection, login, PASSWORD, SALT)
                await connection.execute(f"CREATE SCHEMA {role} AUTHORIZATION {role}".encode())

        self.admin(make)
        return role

    def login(self, role: str, password: str = PASSWORD, **options: Any) -> psycopg.Connection:
        """A session as a client opens it: TCP, TLS, password."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.postgres.port,
            user=role,
            password=password,
            sslmode="require",
            **{"autocommit": True, "dbname": "postgres", **options},
        )

    def lets_in(self, role: str, password: str = PASSWORD) -> bool:
        """Whether the login gets a session."""
        try:
            self.login(role, password).close()
        except psycopg.OperationalError:
            return False
        return True

    def set_gate(self, *, enabled: bool) -> None:
        """Switch event triggers and guards off as only a superuser can, or have them repaired."""
        if enabled:
            self.postgres.query("SELECT vaultbrix.repair()")
            return
        for name in ("vaultbrix_start", "vaultbrix_drop", "vaultbrix_end"):
            self.postgres.query(f"ALTER EVENT TRIGGER {name} DISABLE")
        self.postgres.query(
            "DO $$ DECLARE t regclass; BEGIN"
            " FOR t IN SELECT tgrelid FROM pg_trigger WHERE tgname = 'vaultbrix_truncate_guard' LOOP"
            "  EXECUTE format('ALTER TABLE %s DISABLE TRIGGER vaultbrix_truncate_guard', t); END LOOP; END $$"
        )


@contextlib.contextmanager
def memory() -> Iterator[Path]:
    """A ``directory`` on a filesystem of its own in memory, where a new file always takes as long.

    On ext4 without a journal it takes from 0.03 to 1 ms: inodes freed in the last minutes near by are passed over, one
    by one, and so what ran there before decides how long a CREATE TABLE takes.
    """
    with directory() as path:
        run("mount", "-t", "tmpfs", "-o", "size=8g,mode=0755", "vaultbrix-test", path)
        try:
            yield path
        finally:
            run("umount", "--lazy", path)


@contextlib.contextmanager
def running(settings: Mapping[str, str] | None = None, *, in_memory: bool = False) -> Iterator[Database]:
    """A database with the gate installed; stopped afterwards."""
    with memory() if in_memory else directory() as path:
        database = Database(path, settings)
        try:
            database.postgres.start()
            database.admin(schema.install)
            yield database
        finally:
            database.postgres.stop()


def send(connection: psycopg.Connection, message: str) -> psycopg.pq.abc.PGresult:
    """One simple-protocol message, byte for byte; the result of its last statement, be it an error."""
    return connection.pgconn.exec_(message.encode())
