"""Migration tools of npm, over node-postgres."""

import json
import re
from pathlib import Path

from tests.harness.migration_tool import NAMES, Tool
from tests.harness.tool_client import Done, kit


class NodePgMigrate(Tool):
    """node-pg-migrate with node-postgres; a dry run prints what all pending migrations would send."""

    name = "node-pg-migrate"
    keeps = False
    applied = "SELECT name FROM pgmigrations ORDER BY id"

    def release(self, number: int) -> None:
        self._copy("node-pg-migrate")
        for path in sorted(self.folder.glob("*.js"))[number:]:
            path.unlink()

    def migrate(self) -> Done:
        return self._migrate("up")

    def text(self, number: int) -> str:
        printed = self._migrate("up", "--dry-run")
        assert printed.returncode == 0, printed.stderr
        # Its own words are lines of three kinds around the statements.
        return re.sub(r"^(dry run|[>#].*|Migrations complete!)$", "", printed.stdout, flags=re.MULTILINE)

    def _migrate(self, *arguments: str) -> Done:
        login = self.login
        return self.run(
            kit("npm") / "node_modules/.bin/node-pg-migrate", *arguments, "-m", ".", "-s", login.role,
            NODE_EXTRA_CA_CERTS=str(login.authority),
            NODE_PATH=str(kit("npm") / "node_modules"),
        )  # fmt: skip


class Prisma(Tool):
    """Prisma with its schema engine in WebAssembly, over node-postgres; the migration is the text."""

    name = "prisma"
    resumes = False
    applied = (
        "SELECT migration_name FROM _prisma_migrations"
        " WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL ORDER BY started_at"
    )

    def release(self, number: int) -> None:
        self._copy("prisma")
        self._sql(number, "prisma/migrations/{number}_{name}/migration.sql")
        self._modules()

    def migrate(self) -> Done:
        return self._migrate("deploy")

    def text(self, number: int) -> str:
        return (self.folder / f"prisma/migrations/{number}_{NAMES[number]}/migration.sql").read_text()

    def recover(self, number: int) -> None:
        self.resolve(number, "--rolled-back")

    def resolve(self, number: int, ended: str) -> None:
        """Tell it how a migration that failed has ended, ``--applied`` or ``--rolled-back``."""
        done = self._migrate("resolve", ended, f"{number}_{NAMES[number]}")
        assert done.returncode == 0, done.stdout + done.stderr

    def _migrate(self, *arguments: str) -> Done:
        # Its engines in machine code are downloads of their own; of them it only wants files that it can run.
        return self.run(
            "node_modules/.bin/prisma", "migrate", *arguments,
            DATABASE_URL="postgresql://the.adapter/has-it",
            PRISMA_QUERY_ENGINE_LIBRARY="/bin/true",
            PRISMA_SCHEMA_ENGINE_BINARY="/bin/true",
            PRISMA_HIDE_UPDATE_MESSAGE="1",
            CHECKPOINT_DISABLE="1",
        )  # fmt: skip


class Knex(Tool):
    """Knex with node-postgres; its schema builder prints the SQL of a migration."""

    name = "knex"
    keeps = False
    shows = frozenset()
    applied = "SELECT name FROM knex_migrations ORDER BY id"

    def release(self, number: int) -> None:
        self._copy("knex")
        self._modules()
        for path in sorted((self.folder / "migrations").glob("*.js"))[number:]:
            path.unlink()

    def migrate(self) -> Done:
        return self.run("node_modules/.bin/knex", "migrate:latest")

    def text(self, number: int) -> str:
        printed = self.run("node", "sql.js", f"{number}_{NAMES[number]}")
        assert printed.returncode == 0, printed.stderr
        return printed.stdout


class Drizzle(Tool):
    """Drizzle's migrator with node-postgres; the migration is the text."""

    name = "drizzle"
    keeps = False
    applied = "SELECT created_at FROM __drizzle_migrations ORDER BY id"

    def release(self, number: int) -> None:
        self._copy("drizzle")
        self._modules()
        self._sql(number, "drizzle/{number}_{name}.sql")
        for n in range(1, number + 1):
            path = self._file(n)
            path.write_text(re.sub(r";\n(?=.)", ";\n--> statement-breakpoint\n", path.read_text(), flags=re.DOTALL))
        entries = [
            {"idx": n, "version": "7", "when": n, "tag": f"{n}_{NAMES[n]}", "breakpoints": True}
            for n in range(1, number + 1)
        ]
        journal = self.folder / "drizzle/meta/_journal.json"
        journal.parent.mkdir(exist_ok=True)
        journal.write_text(json.dumps({"version": "7", "dialect": "postgresql", "entries": entries}))

    def migrate(self) -> Done:
        return self.run("node", "migrate.js")

    def text(self, number: int) -> str:
        return self._file(number).read_text()

    def _file(self, number: int) -> Path:
        return self.folder / f"drizzle/{number}_{NAMES[number]}.sql"
