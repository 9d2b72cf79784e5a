"""A tenant, a migration tool with a project of migrations for it, and what an admin does for that tenant."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, LiteralString, TypeVar
from uuid import uuid4

import psycopg
from tests.harness.database import PASSWORD, Database
from tests.harness.migration_tool import Tool
from tests.harness.postgres import Postgres
from tests.harness.tool_client import Client, Login

from vaultbrix.ddl.gate import passes, policy
from vaultbrix.ddl.gate.patterns import relation_pattern
from vaultbrix.ddl.plan import plan

C = TypeVar("C", bound=Client)
T = TypeVar("T", bound=Tool)

HOUR = timedelta(hours=1)


def made(database: Database, kind: type[T], folder: Path) -> "Project[T]":
    """A tenant of its own for a migration tool."""
    return Project(database.postgres, client_of(database, kind, folder))


def client_of(database: Database, kind: type[C], folder: Path, slug: str | None = None) -> C:
    """A program with a tenant of its own."""
    role = database.tenant(slug or f"{kind.name.replace('-', '_')}_{uuid4().hex[:8]}")
    return kind(folder, Login("localhost", database.postgres.port, role, PASSWORD, database.authority))


@dataclass(frozen=True)
class State:
    """What the tool's own table holds, and the columns of two tables; none of a table that is not there."""

    applied: list[str]
    orders: set[str]
    obsolete: set[str]


class Held(Generic[C]):
    """A tenant with a program that the gate holds, and what an admin does for it."""

    nested = False
    """Whether approvals allow what functions and DO blocks do."""

    def __init__(self, postgres: Postgres, tool: C) -> None:
        self.postgres, self.tool, self.role = postgres, tool, tool.login.role

    def approve(self, text: str) -> str:
        """A pass for the tenant's own sessions, as an approval with execution Session gives it."""
        pass_id = str(uuid4())
        expires = datetime.now(UTC) + HOUR
        self._admin(
            passes.issue_pass, pass_id=pass_id, role=self.role, login=None, approved_by="pat", expires_at=expires,
            plan=plan(text), allow_nested=self.nested,
        )  # fmt: skip
        return pass_id

    def allow_additive(self) -> None:
        """What the Tenant's ddlPolicy.autoApprove does."""
        self._admin(policy.set_policy, self.role, additive=True)

    def allow_rebuilding(self, *patterns: str) -> None:
        """What the Tenant's ddlPolicy.rebuildable does."""
        wanted = frozenset(relation_pattern(text, self.role) for text in patterns)
        self._admin(policy.set_rebuildable, self.role, wanted)

    def query(self, statement: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows as a superuser sees them who looks into the tenant's schema first."""
        with self.postgres.connect(options=f"-c search_path={self.role}") as session:
            return session.execute(statement, parameters).fetchall()

    def refused(self) -> list[str]:
        """The texts of this tenant that the gate refused, oldest first: from the log, and so in the audit record."""
        entries = [json.loads(line) for line in self.postgres.log_text().splitlines()]
        return [e["statement"] for e in entries if e.get("state_code") == "VBX01" and e.get("user") == self.role]

    def _admin(self, function: Callable[..., Awaitable[None]], *arguments: object, **named: object) -> None:
        async def call() -> None:
            async with await psycopg.AsyncConnection.connect(
                host=str(self.postgres.socket), port=self.postgres.port, user="postgres", dbname="postgres",
                autocommit=True,
            ) as connection:  # fmt: skip
                await function(connection, *arguments, **named)

        asyncio.run(call())


class Project(Held[T]):
    """A tenant with a migration tool."""

    def __init__(self, postgres: Postgres, tool: T) -> None:
        super().__init__(postgres, tool)
        self.nested = tool.nested

    def migrate(self) -> None:
        """Run the tool, which succeeds."""
        done = self.tool.migrate()
        assert done.returncode == 0, done.stdout + done.stderr

    def begin(self) -> None:
        """Approve what the tool needs before its first migration."""
        if text := self.tool.begin():
            self.approve(text)

    def migrated(self) -> None:
        """Have the first two migrations in the database, in one run, with one approval."""
        self.tool.release(2)
        self.approve(f"{self.tool.begin()};\n{self.tool.text(2)}")
        self.migrate()

    def state(self) -> "State":
        """How things stand."""
        with self.postgres.connect() as session:
            session.execute("SELECT set_config('search_path', %s, false)", [self.role])
            applied = [str(value) for (value,) in session.execute(self.tool.applied.encode()).fetchall()]
        return State(applied, self._columns("orders"), self._columns("obsolete"))

    def _columns(self, table: str) -> set[str]:
        rows = self.postgres.query(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [f"{self.role}.{table}"],
        )
        return {name for (name,) in rows}
