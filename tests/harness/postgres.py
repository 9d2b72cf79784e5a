"""A real PostgreSQL with pgaudit, TLS and jsonlog, as the chart configures it; started, killed and started again."""

import os
import pwd
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from tests.harness.processes import Process, alive, children
from tests.harness.shell import TOP, run, wait_for

from vaultbrix.install import certificates
from vaultbrix.postgres.connect import Target

# 17 is what the image has; 15, which is supported, too, is the host's.
VERSION = os.environ.get("VAULTBRIX_POSTGRES", "17")
PROGRAMS = Path(f"/usr/lib/postgresql/{VERSION}/bin")
ENTER: Sequence[str] = () if VERSION == "15" else (str(TOP / "hack/postgres/enter"), VERSION)
PORT = 5433
USER = "postgres"


def program(name: str) -> list[str]:
    """The command of one of PostgreSQL's programs, of the server's version: pg_dump refuses a newer server.

    It starts in the folder ``/``, and is found by who has another HOME, too.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return ["env", f"XDG_CACHE_HOME={cache}", *ENTER, str(PROGRAMS / name)]


# The part of the chart's postgresql.conf that the product rests on.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "*",
    "unix_socket_permissions": "0770",
    "ssl": "on",
    "ssl_min_protocol_version": "TLSv1.2",
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "superuser_reserved_connections": "5",
    "max_locks_per_transaction": "1024",
    "client_connection_check_interval": "1s",
    "shared_preload_libraries": "pgaudit",
    "pgaudit.log": "ddl, role",
    "pgaudit.log_parameter": "off",
    "log_destination": "jsonlog",
    "logging_collector": "on",
    "log_filename": "postgresql-%Y-%m-%d_%H%M%S.log",
    "log_file_mode": "0640",
    "log_rotation_size": "64MB",
    "log_truncate_on_rotation": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "log_error_verbosity": "verbose",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_duration": "on",
    "log_statement": "none",
    "log_hostname": "off",
    "fsync": "off",
}

HBA = "local all all peer map=tests\n"
# The tests and the agent are root.
IDENT = "tests root postgres\ntests root root\ntests root vaultbrix_agent\ntests postgres postgres\n"


class Postgres:
    """One instance in a directory of its own, reached as superuser ``root`` over its Unix socket."""

    def __init__(
        self,
        directory: Path,
        *,
        prefix: Sequence[str] = (),
        hba: str = "",
        settings: Mapping[str, str] | None = None,
        port: int = PORT,
        names: Sequence[str] = (),
    ) -> None:
        directory.mkdir(mode=0o755)
        self.socket, self.logs, self.state = (directory / name for name in ("socket", "log", "state"))
        self.hba_file = directory / "hba/pg_hba.conf"
        self.authority = directory / "ca.crt"
        self.port = port
        self.data = directory / "data"
        for path in (self.socket, self.logs, self.state, self.hba_file.parent, self.data):
            path.mkdir(mode=0o700 if path == self.data else 0o750)
        self._names = ["postgres.test", "localhost", *names]
        self._signer = certificates.authority("tests", datetime.now(UTC))
        self.authority.write_text(self._signer.certificate)
        self.certificate = directory / "tls.crt"
        self.issue_certificate()
        self.hba_file.write_text(HBA + hba)
        (self.hba_file.parent / "pg_ident.conf").write_text(IDENT)
        values = {
            **SETTINGS,
            "port": str(port),
            "unix_socket_directories": str(self.socket),
            "hba_file": str(self.hba_file),
            "ident_file": str(self.hba_file.parent / "pg_ident.conf"),
            "ssl_cert_file": str(self.certificate),
            "ssl_key_file": str(self.certificate.with_suffix(".key")),
            "log_directory": str(self.logs),
            **(settings or {}),
        }
        configuration = directory / "postgresql.conf"
        configuration.write_text("".join(f"{name} = '{value}'\n" for name, value in values.items()))
        owner = pwd.getpwnam(USER)
        for path in (directory, *directory.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        as_user = [*ENTER, "setpriv", f"--reuid={USER}", f"--regid={owner.pw_gid}", "--init-groups"]
        run(
            *as_user, PROGRAMS / "initdb", f"--pgdata={self.data}", f"--username={USER}", "--encoding=UTF8",
            "--locale=C.UTF-8", "--auth=reject", "--no-sync",
        )  # fmt: skip
        self.process = Process(
            [*prefix, *as_user, str(PROGRAMS / "postgres"), "-D", str(self.data), f"--config-file={configuration}"],
            directory / "postgres.out",
        )

    def client_certificate(self, login: str) -> dict[str, str]:
        """Certificate and key of a client, by the keys that they have in a Secret."""
        issued = certificates.client(self._signer, login, datetime.now(UTC))
        return {"tls.crt": issued.certificate, "tls.key": issued.key}

    def issue_certificate(self) -> None:
        """Write another certificate and key of the same CA, as a mounted Secret changes: PostgreSQL is not told."""
        server = certificates.server(self._signer, self._names, datetime.now(UTC))
        owner = pwd.getpwnam(USER)
        for path, text in ((self.certificate.with_suffix(".key"), server.key), (self.certificate, server.certificate)):
            new = path.with_suffix(".new")
            new.write_text(text)
            new.chmod(0o600)
            os.chown(new, owner.pw_uid, owner.pw_gid)
            new.rename(path)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process.start()
        wait_for("PostgreSQL answers", self._answers, patience=60, tell=self._said)

    def stop(self) -> None:
        """Fast shutdown."""
        self.process.stop(signal.SIGINT)

    def crash(self) -> None:
        """SIGQUIT to the postmaster: no checkpoint, recovery at the next start. Waits until its backends are gone."""
        # One that is still there has the shared memory, for which the next start would be refused.
        backends = children(self.process.pid) if self.process.running else []
        self.process.stop(signal.SIGQUIT)
        wait_for("all backends are gone", lambda: not any(map(alive, backends)))

    def connect(self, user: str = USER, **options: Any) -> psycopg.Connection:
        """An autocommit connection over the Unix socket."""
        return psycopg.connect(
            host=str(self.socket), port=self.port, user=user, dbname="postgres", autocommit=True, **options
        )

    def query(
        self, statement: LiteralString | sql.Composed, parameters: Sequence[object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement as superuser; returns its rows.

        The operator repairs roles as tests change them: of two changes to one catalog row at one moment PostgreSQL
        refuses the second (``tuple concurrently updated``), which is then sent again.
        """
        with self.connect() as connection:
            for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 0):
                try:
                    cursor = connection.execute(statement, parameters)
                    break
                except psycopg.errors.InternalError_ as error:
                    if "concurrently" not in str(error) or not pause:
                        raise
                    time.sleep(pause)
            return cursor.fetchall() if cursor.description else []

    def log_text(self) -> str:
        """All of its log."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.logs.glob("*.json")))

    def set_password(self, password: str) -> None:
        """The superuser's, for connections over TCP."""
        with self.connect() as connection:
            verifier = connection.pgconn.encrypt_password(password.encode(), USER.encode(), b"scram-sha-256").decode()
            connection.execute(psycopg.sql.SQL("ALTER ROLE postgres PASSWORD {}").format(verifier))

    def _answers(self) -> bool:
        assert self.process.running, self._said()
        try:
            self.connect(connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _said(self) -> str:
        return self.process.text()[-2000:] + self.log_text()[-2000:]


def local(postgres: Postgres) -> Target:
    """The superuser by its Unix socket, for one that trusts it there."""
    return Target(host=str(postgres.socket), port=PORT, database="postgres", user=USER, ssl_mode="disable")
