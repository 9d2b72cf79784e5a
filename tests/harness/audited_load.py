"""Clients of an audited database: pgbench by several tenants, and one session that sends all that is hard to log."""

import contextlib
import itertools
import socket
import struct
import threading
import time
from pathlib import Path

import psycopg
from tests.harness.database import PASSWORD, Database, send
from tests.harness.processes import Process

SCRIPT = """\\set n random(1, 1000)
SELECT 'a,b "c"', "x"
FROM (SELECT :n AS x) y;
INSERT INTO items VALUES (:n, E'tab\\t quote " \\\\ line\\n end');
UPDATE items SET v = 'ä€🔒' WHERE id = :n;
SELECT twice(:n);
DELETE FROM items WHERE id = :n;
"""
FORGED = 'AUDIT: SESSION,99,1,READ,SELECT,,,"DROP TABLE a",<none>'
STATEMENTS = (
    "SELECT 1/0",
    "SELEC 'no statement'",
    "SELECT * FROM nowhere",
    "SELECT 1; SELECT 2,\n'three \"four\"';\r\nSELECT 5",
    "BEGIN; SELECT 'rolled back'; ROLLBACK",
    f"DO $$ BEGIN RAISE LOG '{FORGED}'; RAISE WARNING '{FORGED}'; END $$",
    "DO $$ BEGIN PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN RAISE NOTICE 'caught'; END $$",
    f"SET application_name = '{FORGED}'",
    "SET application_name = 'back\\slash, \"quote\"'",
    'CREATE TABLE IF NOT EXISTS made(id int PRIMARY KEY, "odd, ""name" text)',
    "INSERT INTO made VALUES (1, 'x') ON CONFLICT DO NOTHING",
    'SELECT "odd, ""name" FROM made',
    "DROP TABLE made",
    "SELECT twice(n) FROM generate_series(1, 5) n",
    "VACUUM items",
)
LONG = 'é,"\n\t\\' * (1024 * 1024 // 7)


class Load:
    """``rate``: transactions a second of each tenant's pgbench. ``rude``: with the session that is hard to log."""

    def __init__(self, database: Database, path: Path, *, tenants: int = 2, rate: int = 40, rude: bool = True) -> None:
        self._database, self._path = database, path
        self._with_rude = rude
        self.roles = [database.tenant(f"load{number}") for number in range(tenants)]
        for role in self.roles:
            with database.login(role) as session:
                session.execute("CREATE TABLE items(id int, v text)")
                session.execute(
                    "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS"
                    " $$ BEGIN PERFORM count(*) FROM items; RETURN 2 * n; END $$"
                )
        script = path / "load.sql"
        script.write_text(SCRIPT)
        self._clients = [
            self._pgbench(role, script, mode, rate)
            for role, mode in zip(self.roles, itertools.cycle(("simple", "prepared", "extended")), strict=False)
        ]
        self._ending = threading.Event()
        self._rude: threading.Thread | None = None
        self.sent = 0

    def start(self) -> None:
        """Set all of them to work; those that work already go on."""
        for client in self._clients:
            if not client.running:
                client.start()
        if self._with_rude and self._rude is None:
            self._ending.clear()
            self._rude = threading.Thread(target=self._be_rude, daemon=True)
            self._rude.start()

    def stop(self) -> None:
        """Have them end their sessions."""
        self._ending.set()
        for client in self._clients:
            client.stop()
        if self._rude is not None:
            self._rude.join()
            self._rude = None

    def _pgbench(self, role: str, script: Path, mode: str, rate: int) -> Process:
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self._database.postgres.port), "PGDATABASE": "postgres"}
        return Process(
            ["pgbench", "-n", "-c2", "-T3600", f"-M{mode}", f"--rate={rate}", f"--file={script}"],
            self._path / f"pgbench-{role}.log",
            env={**where, "PGUSER": role, "PGPASSWORD": PASSWORD},
        )

    def _be_rude(self) -> None:
        role = self.roles[0]
        for number in itertools.count():
            if self._ending.is_set():
                return
            # The server may be away, or end the session: what counts is what it logs.
            with contextlib.suppress(psycopg.Error, OSError):
                self._one_session(role, number)
            time.sleep(0.05)

    def _one_session(self, role: str, number: int) -> None:
        with self._database.login(role) as session:
            for statement in STATEMENTS:
                send(session, statement)
                self.sent += 1
                if self._ending.is_set():
                    return
            with contextlib.suppress(psycopg.Error):
                session.execute("SELECT %s, 1 / %s::int", ['parameter, "quoted"', number % 2], prepare=True)
            with session.cursor() as cursor, cursor.copy("COPY items FROM STDIN") as copy:
                copy.write_row((1, 'copied "in",\n'))
            with session.cursor() as cursor, cursor.copy("COPY items TO STDOUT") as copy:
                for _ in copy:
                    pass
            if number % 8 == 0:
                session.execute(f"SELECT length('{LONG}')")
        for attempt in (self._no_password, self._no_utf8):
            attempt(role)

    def _no_password(self, role: str) -> None:
        with contextlib.suppress(psycopg.OperationalError):
            self._database.login(role, password="wrong").close()

    def _no_utf8(self, _role: str) -> None:
        # Without TLS, which pg_hba refuses; PostgreSQL logs the name as it came.
        with socket.create_connection(("127.0.0.1", self._database.postgres.port), timeout=5) as link:
            packet = struct.pack("!I", 196608) + b'user\0\xff\xfe"\n\0database\0postgres\0\0'
            link.sendall(struct.pack("!I", len(packet) + 4) + packet)
            with contextlib.suppress(OSError):
                link.recv(1024)
