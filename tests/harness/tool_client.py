"""Programs of a tenant's: where they are, how they reach the database, and how they are run."""

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, LiteralString

import psycopg
from tests.harness.shell import TOP, run

PROJECTS = TOP / "tests/tools/projects"

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

    name: ClassVar[str] = "client"

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
