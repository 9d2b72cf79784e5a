"""Real migration tools, each with a project of three migrations: one creates, one adds, one drops.

The projects hold the same schema in each tool's own way. ``release`` puts the migrations up to a number into the
project, as a new release of an application does; ``migrate`` is the one command that brings them to the database.
"""

import json
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, LiteralString

import psycopg
from tests.harness.shell import TOP, run

PROJECTS = TOP / "tests/tools/projects"
NAMES = {1: "create", 2: "add", 3: "drop"}

Done = subprocess.CompletedProcess[str]


@cache
def kit(name: str) -> Path:
    """The folder of a kit of tools; ``prepare`` makes it where it is not there yet."""
    return Path(run(TOP / "tests/tools/prepare", name, timeout=1200).stdout.split(" ", 1)[1].strip())


@dataclass(frozen=True)
class Login:
    """How a client reaches the database: always TLS with a certificate that it checks, and a password."""

    host: str
    port: int
    role: str
    password: str
    authority: Path
    sslmode: str = "verify-full"
    prefix: tuple[str, ...] = ()

    @property
    def libpq(self) -> dict[str, str]:
        """As environment of libpq and of what follows it."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.role,
            "PGPASSWORD": self.password,
            "PGDATABASE": "postgres",
            "PGSSLMODE": self.sslmode,
            "PGSSLROOTCERT": str(self.authority),
        }

    def connect(self) -> psycopg.Connection:
        """A session of the tests' own as that client."""
        return psycopg.connect(
            host=self.host, port=self.port, user=self.role, password=self.password, dbname="postgres",
            sslmode=self.sslmode, sslrootcert=str(self.authority), autocommit=True,
        )  # fmt: skip

    @property
    def jdbc(self) -> str:
        """As pgjdbc's URL without user and password."""
        return f"jdbc:postgresql://{self.host}:{self.port}/postgres?sslmode={self.sslmode}&sslrootcert={self.authority}"

    @property
    def url(self) -> str:
        """As a URL without a password."""
        return f"postgres://{self.host}:{self.port}/postgres?sslmode={self.sslmode}&sslrootcert={self.authority}"


class Client:
    """A program of a tenant's with its files in a folder of its own."""

    name: ClassVar[str]

    def __init__(self, folder: Path, login: Login) -> None:
        self.folder, self.login = folder, login

    def run(self, *command: str | Path, **environment: str) -> Done:
        """A command of the program in its folder, with the environment of libpq unless it says otherwise."""
        variables = {**self.login.libpq, "HOME": str(self.folder), **environment}
        return run(*self.login.prefix, "env", "-C", self.folder, *command, check=False, env=variables, timeout=240)

    def sql(self, *statements: LiteralString) -> None:
        """Statements of the tenant's own, each in a transaction of its own."""
        with self.login.connect() as session:
            for statement in statements:
                session.execute(statement)

    def _copy(self, project: str) -> None:
        shutil.copytree(PROJECTS / project, self.folder, dirs_exist_ok=True)


class Tool(Client, ABC):
    """A migration tool with its project."""

    applied: ClassVar[str]
    """SQL for what the tool's own table says is applied, one row each."""
    shows: ClassVar[frozenset[str]] = frozenset({"detail", "hint"})
    """Which parts of PostgreSQL's error, beside its message, the tool passes on to its user."""
    messages: ClassVar[int] = 2
    """In how many messages with something gated the third migration is sent."""
    resumes: ClassVar[bool] = True
    """Whether a migration that was refused in its midst is simply run again, nothing of it being done."""
    keeps: ClassVar[bool] = True
    """Whether the migrations before a refused one stay, when one run brings several: each is a transaction."""
    additive: ClassVar[bool] = True
    """Whether the additive policy lets the second migration through, and the tool's own bookkeeping."""

    nested: ClassVar[bool] = False
    """Whether what it changes is in functions or DO blocks, which an approval has to allow."""

    @abstractmethod
    def release(self, number: int) -> None:
        """The project as it is with migrations up to that number."""

    @abstractmethod
    def migrate(self) -> Done:
        """Bring all migrations of the project to the database; however that ends."""

    @abstractmethod
    def text(self, number: int) -> str:
        """The text for an approval of that migration, by the means that the tool gives its users."""

    def recover(self, number: int) -> None:
        """After a refusal of that migration, what the tool wants before its command is run again."""

    def begin(self) -> str:
        """What an admin has to approve before the first migration; most tools need nothing."""
        return ""

    def _sql(self, number: int, pattern: str, before: str = "") -> None:
        """The migrations that are plain SQL, named as the tool wants it."""
        for n in range(1, number + 1):
            path = self.folder / pattern.format(number=n, name=NAMES[n])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(before + plain(n))

    def _modules(self) -> None:
        """What npm has installed, as the project's own."""
        if not (modules := self.folder / "node_modules").exists():
            modules.symlink_to(kit("npm") / "node_modules")


def plain(number: int) -> str:
    """A migration as plain SQL."""
    return (PROJECTS / "sql" / f"{number}_{NAMES[number]}.sql").read_text()


def without_transaction(script: str) -> str:
    """A script that a tool printed, without the transaction around it, which an approval must not hold."""
    return re.sub(r"^(BEGIN|COMMIT);\n?", "", script, flags=re.MULTILINE)


class Alembic(Tool):
    """SQLAlchemy's, with psycopg 3; it prints the SQL of a range of revisions."""

    name = "alembic"
    applied = "SELECT version_num FROM alembic_version"

    def release(self, number: int) -> None:
        self._copy("alembic")
        for path in sorted((self.folder / "migrations/versions").glob("0*.py"))[number:]:
            path.unlink()

    def migrate(self) -> Done:
        return self._alembic("upgrade", "head")

    def text(self, number: int) -> str:
        printed = self._alembic("upgrade", f"{number - 1:04}:{number:04}", "--sql")
        assert printed.returncode == 0, printed.stderr
        return without_transaction(printed.stdout)

    def _alembic(self, *arguments: str) -> Done:
        return self.run(kit("python") / "bin/python", "-m", "alembic", *arguments)


class Django(Tool):
    """Django's own, with psycopg 3; ``sqlmigrate`` prints the SQL of a migration."""

    name = "django"
    applied = "SELECT name FROM django_migrations ORDER BY id"

    def release(self, number: int) -> None:
        self._copy("django")
        for path in sorted((self.folder / "shop/migrations").glob("0*.py"))[number:]:
            path.unlink()

    def migrate(self) -> Done:
        return self._manage("migrate")

    def text(self, number: int) -> str:
        printed = self._manage("sqlmigrate", "shop", f"{number:04}")
        assert printed.returncode == 0, printed.stderr
        return without_transaction(printed.stdout)

    def _manage(self, *arguments: str) -> Done:
        return self.run(kit("python") / "bin/python", "manage.py", *arguments)


class Flyway(Tool):
    """Flyway's library with pgjdbc; the migration is the text."""

    name = "flyway"
    applied = "SELECT script FROM flyway_schema_history WHERE success ORDER BY installed_rank"

    def release(self, number: int) -> None:
        self._copy("flyway")
        self._sql(number, "V{number}__{name}.sql")

    def migrate(self) -> Done:
        return self.run(
            "java", "-XX:TieredStopAtLevel=1", "-cp", f"{kit('java')}/*", "Migrate.java",
            FLYWAY_LOCATIONS="filesystem:.",
            FLYWAY_URL=self.login.jdbc,
            FLYWAY_USER=self.login.role,
            FLYWAY_PASSWORD=self.login.password,
        )  # fmt: skip

    def text(self, number: int) -> str:
        return (self.folder / f"V{number}__{NAMES[number]}.sql").read_text()

    def begin(self) -> str:
        table = "flyway_schema_history"
        return f'ALTER TABLE "{self.login.role}"."{table}" ADD CONSTRAINT "{table}_pk" PRIMARY KEY ("installed_rank")'


class Goose(Tool):
    """pressly/goose with pgx; the migration is the text."""

    name = "goose"
    shows = frozenset()
    applied = "SELECT version_id FROM goose_db_version WHERE version_id > 0 AND is_applied ORDER BY id"

    def release(self, number: int) -> None:
        self._sql(number, "{number:05}_{name}.sql", before="-- +goose Up\n")

    def migrate(self) -> Done:
        return self.run(kit("go") / "goose", "postgres", self.login.url, "up")

    def text(self, number: int) -> str:
        return (self.folder / f"{number:05}_{NAMES[number]}.sql").read_text()


class GolangMigrate(Tool):
    """golang-migrate with lib/pq: it empties its own table with TRUNCATE before and after each migration."""

    name = "golang-migrate"
    resumes = False
    additive = False
    shows = frozenset()
    applied = "SELECT version FROM schema_migrations WHERE NOT dirty"

    def release(self, number: int) -> None:
        self._sql(number, "{number:06}_{name}.up.sql")

    def migrate(self) -> Done:
        return self._migrate("up")

    def text(self, number: int) -> str:
        own = f'TRUNCATE "{self.login.role}"."schema_migrations";\n'
        return own + plain(number) + own

    def begin(self) -> str:
        return self.text(1)

    def force(self, number: int) -> Done:
        """Have it take that migration for the last one."""
        return self._migrate("force", str(number))

    def _migrate(self, *arguments: str) -> Done:
        return self.run(kit("go") / "migrate", "-path", ".", "-database", self.login.url, *arguments)


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


class Liquibase(Tool):
    """Liquibase's library with pgjdbc, with a changelog of plain SQL; it prints what it would send."""

    name = "liquibase"
    applied = "SELECT id FROM databasechangelog ORDER BY orderexecuted"

    def release(self, number: int) -> None:
        self._copy("liquibase")
        changes = [f"--changeset shop:{n}_{NAMES[n]}\n{plain(n)}" for n in range(1, number + 1)]
        (self.folder / "changelog.sql").write_text("--liquibase formatted sql\n\n" + "\n".join(changes))

    def migrate(self) -> Done:
        return self._java()

    def text(self, number: int) -> str:
        printed = self._java("sql")
        assert printed.returncode == 0, printed.stderr
        return printed.stdout

    def _java(self, *arguments: str) -> Done:
        return self.run(
            "java", "-XX:TieredStopAtLevel=1", "-cp", f"{kit('java')}/*", "Migrate.java", *arguments,
            JDBC_URL=self.login.jdbc,
            JDBC_USER=self.login.role,
            JDBC_PASSWORD=self.login.password,
        )  # fmt: skip


class ActiveRecord(Tool):
    """Rails' migrations with Debian's packages; a script of the project's own prints what one would send."""

    name = "activerecord"
    applied = "SELECT version FROM schema_migrations ORDER BY version"

    def release(self, number: int) -> None:
        self._copy("activerecord")
        for path in sorted((self.folder / "db/migrate").glob("*.rb"))[number:]:
            path.unlink()

    def migrate(self) -> Done:
        return self.run("ruby", "migrate.rb")

    def text(self, number: int) -> str:
        printed = self.run("ruby", "migrate.rb", str(number))
        assert printed.returncode == 0, printed.stderr
        return printed.stdout


class EntityFramework(Tool):
    """A script as ``dotnet ef migrations script --idempotent`` writes it, by psql: every change in a DO block."""

    name = "entity-framework"
    nested = True
    additive = False
    applied = 'SELECT "MigrationId" FROM "__EFMigrationsHistory" ORDER BY 1'
    HISTORY = """CREATE TABLE IF NOT EXISTS "__EFMigrationsHistory" (
    "MigrationId" character varying(150) NOT NULL,
    "ProductVersion" character varying(32) NOT NULL,
    CONSTRAINT "PK___EFMigrationsHistory" PRIMARY KEY ("MigrationId")
);
"""

    def release(self, number: int) -> None:
        script = self.HISTORY + "".join(
            f"START TRANSACTION;\n\n{self.text(n)}COMMIT;\n\n" for n in range(1, number + 1)
        )
        (self.folder / "script.sql").write_text(script)

    def migrate(self) -> Done:
        return self.run("psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", "script.sql")

    def text(self, number: int) -> str:
        statements = [*plain(number).split(";\n"), self._books(number)]
        return "".join(self._block(number, statement.strip()) for statement in statements if statement.strip())

    def _books(self, number: int) -> str:
        return (
            'INSERT INTO "__EFMigrationsHistory" ("MigrationId", "ProductVersion")\n'
            f"    VALUES ('{number}_{NAMES[number]}', '9.0.0')"
        )

    def _block(self, number: int, statement: str) -> str:
        known = f"""SELECT 1 FROM "__EFMigrationsHistory" WHERE "MigrationId" = '{number}_{NAMES[number]}'"""
        return f"""DO $EF$
BEGIN
    IF NOT EXISTS({known}) THEN
    {statement};
    END IF;
END $EF$;
"""


TOOLS: tuple[type[Tool], ...] = (
    Alembic, Django, Flyway, Goose, GolangMigrate, NodePgMigrate, Prisma, Knex, Drizzle, Liquibase, ActiveRecord,
    EntityFramework,
)  # fmt: skip
