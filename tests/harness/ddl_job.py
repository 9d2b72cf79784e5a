"""``vaultbrix ddl run`` as its Job starts it: pass, login and mounted Secret as the operator makes them."""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import LiteralString
from uuid import uuid4

from tests.harness.database import Database
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for

from vaultbrix.ddl.decisions import login_name
from vaultbrix.ddl.gate import logins, passes
from vaultbrix.ddl.plan import plan
from vaultbrix.postgres import scram

HOUR = timedelta(hours=1)
# Not idempotent, so that a second run would show.
TEXT = "CREATE TABLE made(id int);\nINSERT INTO counted DEFAULT VALUES;\nALTER TABLE victim DROP COLUMN v"


@dataclass
class Job:
    """One approval's run: what the controller makes, and the process that its Job starts."""

    database: Database
    role: str
    path: Path
    pass_id: str
    password: str

    @property
    def login(self) -> str:
        return login_name(self.pass_id)

    @property
    def termination(self) -> Path:
        return self.path / "termination-log"

    def write_secret(self, text: str) -> None:
        """The Secret as it is mounted."""
        parameters = {
            "host": "localhost",
            "port": self.database.postgres.port,
            "database": "postgres",
            "ssl_mode": "verify-full",
            "user": self.login,
            "role": self.role,
            "pass_id": self.pass_id,
            "lock_timeout_ms": 60_000,
            "statement_timeout_ms": 60_000,
        }
        (self.path / "parameters.json").write_text(json.dumps(parameters))
        (self.path / "statements.sql").write_text(text)
        (self.path / "password").write_text(self.password)
        (self.path / "ca.crt").write_text(self.database.authority.read_text())

    def start(self, name: str = "run") -> Process:
        """A Pod of the Job."""
        self.termination.write_text("")
        command = [*VAULTBRIX, "ddl", "run", "--directory", str(self.path)]
        process = Process(command, self.path / f"{name}.log", env={"TERMINATION_LOG": str(self.termination)})
        process.start()
        return process

    def run(self) -> tuple[int, Process]:
        """A Pod from start to end; returns its exit code."""
        process = self.start()
        return end(process), process

    def sessions(self, condition: LiteralString = "true") -> list[tuple[object, ...]]:
        """Its sessions in PostgreSQL."""
        return self.database.postgres.query(
            "SELECT pid FROM pg_stat_activity WHERE usename = %s AND " + condition, [self.login]
        )

    def count(self) -> int:
        """How often the text ran to its end."""
        ((runs,),) = self.database.postgres.query(f"SELECT count(*) FROM {self.role}.counted")
        assert isinstance(runs, int)
        return runs

    def columns(self) -> list[str]:
        found = (
            "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        )
        return [row[0] for row in self.database.postgres.query(found, [f"{self.role}.victim"])]

    def error(self) -> dict[str, object]:
        """What the Pod says last."""
        found: dict[str, object] = json.loads(self.termination.read_text())
        return found


def end(process: Process) -> int:
    """Its exit code, once it has ended by itself; one that is not let in tries for half a minute."""
    wait_for("the Job's process has ended", lambda: not process.running, patience=90, tell=process.text)
    code = process.stop()
    assert code is not None
    return code


def job(
    database: Database, role: str, path: Path, text: str = TEXT, *, lasting: timedelta = HOUR, with_pass: bool = True
) -> Job:
    made = Job(database, role, path, str(uuid4()), secrets.token_urlsafe(24))
    if with_pass:
        database.admin(
            passes.issue_pass, pass_id=made.pass_id, role=role, login=made.login, approved_by="pat",
            expires_at=datetime.now(UTC) + lasting, plan=plan(text),
        )  # fmt: skip
    verifier = scram.verifier(made.password, secrets.token_bytes(scram.SALT_BYTES))
    database.admin(
        logins.create_login, login=made.login, role=role, verifier=verifier, valid_until=datetime.now(UTC) + HOUR
    )
    made.write_secret(text)
    return made
