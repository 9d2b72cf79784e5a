"""Numbered SQL scripts that bring a database up to date: each is applied once, in order, and noted in a table there."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import LiteralString

import psycopg
from psycopg import sql


@dataclass(frozen=True)
class Migration:
    """One numbered script; never edited or renamed once it was released."""

    version: int
    name: str
    text: str

    @property
    def file_name(self) -> str:
        """Such as ``0001_gate.sql``."""
        return f"{self.version:04}_{self.name}.sql"

    @property
    def sha256(self) -> str:
        """Hash of the script, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Ledger:
    """The table in which a database notes the migrations that it has, by their ``version``.

    ``lock`` is the statement that makes a second migrator wait until the transaction of the first one ends. ``create``
    makes the table where there is none; these statements run each time. ``note`` adds a row, from the parameters
    ``version``, ``name``, ``file_name`` and ``sha256``.
    """

    table: tuple[LiteralString, LiteralString]
    lock: LiteralString
    create: Sequence[LiteralString]
    note: LiteralString


def read_migrations(package: str) -> list[Migration]:
    """The scripts in folder ``sql`` of a package, in their order."""
    migrations = []
    for script in files(package).joinpath("sql").iterdir():
        number, _, name = script.name.removesuffix(".sql").partition("_")
        migrations.append(Migration(int(number), name, script.read_text()))
    return sorted(migrations, key=lambda migration: migration.version)


async def migrate_database(connection: psycopg.AsyncConnection, ledger: Ledger, migrations: Sequence[Migration]) -> int:
    """Apply those that the database does not have yet, all or none; returns the version that it has then.

    That is above the last of ``migrations`` where a newer release was here before; nothing is applied then. Raises
    psycopg.Error.
    """
    async with connection.transaction():
        await connection.execute(ledger.lock)
        for statement in ledger.create:
            await connection.execute(statement)
        version = await _applied_version(connection, ledger)
        for migration in migrations:
            if migration.version > version:
                await connection.execute(migration.text.encode())
                await connection.execute(
                    ledger.note,
                    {
                        "version": migration.version,
                        "name": migration.name,
                        "file_name": migration.file_name,
                        "sha256": migration.sha256,
                    },
                )
    return max(version, migrations[-1].version)


async def _applied_version(connection: psycopg.AsyncConnection, ledger: Ledger) -> int:
    """The newest migration that the database has; 0 for none. Raises psycopg.Error."""
    cursor = await connection.execute(
        sql.SQL("SELECT coalesce(max(version), 0) FROM {}").format(sql.Identifier(*ledger.table))
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
