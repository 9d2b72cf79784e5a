"""Real migration tools, each with its project."""

from tests.harness.migration_tool import NAMES, Tool, plain, without_transaction
from tests.harness.npm_migration_tools import Drizzle, Knex, NodePgMigrate, Prisma
from tests.harness.tool_client import Done, kit


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


class Sqlx(Tool):
    """sqlx-cli with sqlx's own driver, in Rust; the migration is the text."""

    name = "sqlx"
    messages = 1
    shows = frozenset()
    applied = "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version"

    def release(self, number: int) -> None:
        self._sql(number, "migrations/{number:04}_{name}.sql")

    def migrate(self) -> Done:
        return self.run(kit("rust") / "sqlx", "migrate", "run", "--no-dotenv", DATABASE_URL=self.login.url)

    def text(self, number: int) -> str:
        return (self.folder / f"migrations/{number:04}_{NAMES[number]}.sql").read_text()


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
    Alembic, Django, Flyway, Goose, GolangMigrate, Sqlx, NodePgMigrate, Prisma, Knex, Drizzle, Liquibase, ActiveRecord,
    EntityFramework,
)  # fmt: skip
