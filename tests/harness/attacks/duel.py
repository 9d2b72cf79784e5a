"""Two databases for each attack: one with the gate, one where a superuser has taken it away.

An attack is a function that takes a ``Duel``: a fresh tenant with a bit of everything, and every way a client has to
send something. It runs in both. ``harm`` is whatever stood there before and is gone or changed after.
"""

import contextlib
import ctypes
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import pq
from tests.harness.database import PASSWORD, Database, send
from tests.harness.shell import run

from vaultbrix.ddl.gate import passes, policy
from vaultbrix.ddl.gate.patterns import relation_pattern
from vaultbrix.ddl.plan import plan

SCENE = """
CREATE TYPE kind AS ENUM ('a', 'b');
CREATE TABLE victim(id int PRIMARY KEY, v text NOT NULL DEFAULT 'd', k kind);
INSERT INTO victim SELECT n, 'v' || n, 'a' FROM generate_series(1, 3) n;
CREATE TABLE child(id int CONSTRAINT refers REFERENCES victim ON DELETE CASCADE);
INSERT INTO child VALUES (1);
CREATE TABLE other(id int);
CREATE INDEX by_v ON victim(v);
CREATE SEQUENCE numbers;
CREATE TABLE counted(id int GENERATED ALWAYS AS IDENTITY);
CREATE VIEW look AS SELECT id FROM victim;
CREATE MATERIALIZED VIEW kept AS SELECT id FROM victim;
CREATE UNIQUE INDEX ON kept(id);
CREATE TABLE parts(id int) PARTITION BY LIST (id);
CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1);
CREATE TABLE parent(id int);
CREATE TABLE kid(own int) INHERITS (parent);
INSERT INTO kid VALUES (1, 1);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER stamp BEFORE INSERT ON victim FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE STATISTICS corr ON id, v FROM victim;
CREATE FUNCTION run(what text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE what; RETURN 1; END $$;
CREATE PROCEDURE later(what text) LANGUAGE plpgsql AS $$ BEGIN COMMIT; EXECUTE what; END $$
"""

# One line for each thing that can be lost, with all that says what it is. Table `other` and columns that begin with
# `new_` are the attacks' own.
LOOK = """
WITH own AS (SELECT * FROM pg_class WHERE relnamespace = %(s)s AND relname <> 'other')
SELECT 'class ' || relname, concat_ws(',', relkind, relpersistence, relispartition, relowner, relrowsecurity,
       reloptions, relreplident, reltablespace, relfilenode,
       CASE relkind WHEN 'v' THEN pg_get_viewdef(oid) END) FROM own WHERE relkind NOT IN ('m', 't')
UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attnum, concat_ws(',', attname, atttypid::regtype, atttypmod,
       attgenerated, attidentity, attnotnull, attstorage, attoptions) FROM pg_attribute a JOIN own c ON c.oid = attrelid
 WHERE attnum > 0 AND NOT attisdropped AND relkind <> 'i' AND attname !~ '^new_'
UNION ALL SELECT 'default ' || adrelid::regclass || '.' || adnum, pg_get_expr(adbin, adrelid) FROM pg_attrdef d
  JOIN own c ON c.oid = adrelid
UNION ALL SELECT 'trigger ' || tgrelid::regclass || tgname, concat_ws(',', tgenabled, tgfoid::regproc)
  FROM pg_trigger t JOIN own c ON c.oid = tgrelid WHERE tgname !~ '^vaultbrix' AND NOT tgisinternal
UNION ALL SELECT 'rule ' || rulename || ev_class::regclass, ev_enabled::text FROM pg_rewrite r
  JOIN own c ON c.oid = ev_class
UNION ALL SELECT 'reach ' || c.relname, 'no rule turns writes away' FROM own c WHERE relkind = 'r'
   AND NOT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid)
UNION ALL SELECT 'constraint ' || conname || conrelid::regclass, pg_get_constraintdef(c.oid) FROM pg_constraint c
 WHERE connamespace = %(s)s AND conrelid <> coalesce(to_regclass(%(n)s || '.other'), 0)
UNION ALL SELECT 'inheritance ' || inhrelid::regclass, inhparent::regclass || ',' || inhdetachpending FROM pg_inherits i
  JOIN own c ON c.oid = inhrelid
UNION ALL SELECT 'function ' || p.oid::regprocedure, prosecdef || ',' || proowner FROM pg_proc p
 WHERE pronamespace = %(s)s
UNION ALL SELECT 'type ' || typname, typowner::text FROM pg_type WHERE typnamespace = %(s)s
UNION ALL SELECT 'label ' || e.oid, enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = enumtypid
 WHERE typnamespace = %(s)s
UNION ALL SELECT 'sequence ' || sequencename, concat_ws(',', start_value, min_value, max_value, increment_by, cycle,
       last_value) FROM pg_sequences WHERE schemaname = %(n)s
UNION ALL SELECT 'statistics ' || stxname, stxowner::text FROM pg_statistic_ext WHERE stxnamespace = %(s)s
UNION ALL SELECT 'rows ' || relname, (xpath('//n/text()', query_to_xml(format(
       'SELECT md5(string_agg((SELECT jsonb_object_agg(k, w) FROM jsonb_each(to_jsonb(t)) e(k, w)'
       ' WHERE k !~ ''^new_'')::text, '','' ORDER BY t::text)) AS n FROM ONLY %%I.%%I t', %(n)s, relname),
       false, true, '')))[1]::text FROM own WHERE relkind IN ('r', 'm') AND relispopulated
"""

HOUR = timedelta(hours=1)
numbers = itertools.count(1)


class FastPath:
    """The protocol's function call, which only C's libpq offers; on a connection of its own."""

    def __init__(self, conninfo: str) -> None:
        self._lib = ctypes.CDLL("libpq.so.5")
        self._lib.PQconnectdb.restype = self._lib.PQfn.restype = ctypes.c_void_p
        self._connection = ctypes.c_void_p(self._lib.PQconnectdb(conninfo.encode()))
        assert self._lib.PQstatus(self._connection) == 0

    def call(self, function: int, *arguments: bytes) -> None:
        """Call it by oid with arguments in binary."""

        class Block(ctypes.Structure):
            _fields_ = (("len", ctypes.c_int), ("isint", ctypes.c_int), ("ptr", ctypes.c_char_p))

        blocks = (Block * len(arguments))(*(Block(len(a), 0, a) for a in arguments))
        answer, length = ctypes.create_string_buffer(8192), ctypes.c_int()
        done = self._lib.PQfn(
            self._connection, ctypes.c_uint(function), answer, ctypes.byref(length), 0, blocks, len(arguments)
        )
        self._lib.PQclear(ctypes.c_void_p(done))

    def close(self) -> None:
        """End the connection."""
        self._lib.PQfinish(self._connection)


@dataclass
class Duel:
    """One attempt of one attack in one of the databases."""

    database: Database
    role: str
    _session: psycopg.Connection
    _admin: psycopg.Connection
    _stack: contextlib.ExitStack
    codes: list[str]
    violations: list[str]

    def holds(self, condition: bool, violation: str) -> None:
        """What must hold with the gate, and must not without it."""
        if not condition:
            self.violations.append(violation)

    def fill(self, text: str) -> str:
        """The text with the tenant's role for {role}."""
        return text.replace("{role}", self.role)

    def sql(self, *messages: str, session: psycopg.Connection | None = None) -> list[str]:
        """Simple-protocol messages; the SQLSTATE of each, empty for success."""
        found = [code(send(session or self._session, self.fill(message))) for message in messages]
        self.codes += found
        return found

    def extended(self, text: str, parameters: Sequence[bytes] = ()) -> str:
        """Parse, Bind, Execute in one go."""
        return self._note(self._session.pgconn.exec_params(self.fill(text).encode(), list(parameters)))

    def step(self, which: str, pass_id: str, position: int) -> str:
        """Begin or end a step as the Job does."""
        return self.extended(f"SELECT vaultbrix.{which}_step($1, $2)", [pass_id.encode(), str(position).encode()])

    def prepared(self, text: str) -> str:
        """A named statement, then its execution."""
        connection, name = self._session.pgconn, f"s{next(numbers)}".encode()
        first = self._note(connection.prepare(name, self.fill(text).encode()))
        return first or self._note(connection.exec_prepared(name, []))

    def pipeline(self, *texts: str) -> list[str]:
        """All in one batch with one Sync at its end."""
        connection = self._session.pgconn
        connection.enter_pipeline_mode()
        for text in texts:
            connection.send_query_params(self.fill(text).encode(), [])
        connection.pipeline_sync()
        found = []
        while True:
            result = connection.get_result()
            if result is None:
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                break
            found.append(self._note(result))
        connection.exit_pipeline_mode()
        return found

    def psql(self, text: str, *arguments: str) -> str:
        """psql with the text as its input; what it says."""
        done = run(
            "psql", "-X", "-q", *arguments, self.conninfo, input_text=self.fill(text), env={"PGPASSWORD": PASSWORD},
            check=False,
        )  # fmt: skip
        self.codes.append("VBX01" if "requires an approved" in done.stderr else "")
        return done.stdout + done.stderr

    def fastpath(self, function: str, *arguments: bytes) -> None:
        """A function called by its signature, such as ``run(text)``."""
        call = FastPath(f"{self.conninfo} password={PASSWORD}")
        self._stack.callback(call.close)
        call.call(self.value(f"SELECT '{function}'::regprocedure::oid"), *arguments)

    def value(self, text: str) -> Any:
        """One value as the tenant reads it."""
        row = self._session.execute(self.fill(text).encode()).fetchone()
        return row[0] if row else None

    def session(self, user: str = "", **options: Any) -> psycopg.Connection:
        """Another session, of the tenant or of somebody else."""
        return self._stack.enter_context(self.database.login(user or self.role, **options))

    def admin(self, statement: str, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """As a superuser."""
        cursor = self._admin.execute(self.fill(statement).encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def approve(
        self, text: str, *, role: str = "", login: str | None = "", lasting: timedelta = HOUR, **more: Any
    ) -> str:
        """A pass for that text; returns its id."""
        pass_id = str(uuid4())
        if more.get("expect_drops"):
            more["expect_drops"] = [self.fill(name) for name in more["expect_drops"]]
        self.database.admin(
            passes.issue_pass, pass_id=pass_id, role=role or self.role, login=self.role if login == "" else login,
            approved_by="pat", expires_at=datetime.now(UTC) + lasting, plan=plan(self.fill(text)), **more,
        )  # fmt: skip
        return pass_id

    def additive(self) -> None:
        """Switch the additive policy on."""
        self.database.admin(policy.set_policy, self.role, additive=True)

    def rebuildable(self, *patterns: str, role: str = "") -> None:
        """Let the tenant, or another one, drop relations of these names; see the Tenant's ddlPolicy."""
        named = frozenset(relation_pattern(pattern, role or self.role) for pattern in patterns)
        self.database.admin(policy.set_rebuildable, role or self.role, named)

    def neighbour(self) -> str:
        """Another tenant's role."""
        return fresh_tenant(self.database)

    @property
    def conninfo(self) -> str:
        """How the tenant connects, but for the password."""
        return f"host=127.0.0.1 port={self.database.postgres.port} dbname=postgres user={self.role} sslmode=require"

    def look(self) -> set[tuple[Any, ...]]:
        """All that could be lost."""
        where = self.admin("SELECT to_regnamespace(%s)::oid", [self.role])[0][0]
        if where is None:
            return set()
        return set(self._admin.execute(LOOK, {"s": where, "n": self.role}).fetchall())

    def _note(self, result: pq.abc.PGresult) -> str:
        self.codes.append(code(result))
        return self.codes[-1]


Attack = Callable[[Duel], object]


@contextlib.contextmanager
def duel(database: Database) -> Iterator[Duel]:
    """A fresh tenant with its scene."""
    role = fresh_tenant(database)
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(database.login(role))
        admin = stack.enter_context(database.postgres.connect())
        assert code(send(session, SCENE)) == ""
        yield Duel(database, role, session, admin, stack, [], [])


def harm(database: Database, attack: Attack) -> tuple[set[str], list[str]]:
    """What the attack destroyed there, and the SQLSTATEs that it met."""
    with duel(database) as fight:
        before = fight.look()
        with contextlib.suppress(psycopg.Error):
            attack(fight)
        after = fight.look()
        return {f"{what}: {detail}" for what, detail in before - after} | {*fight.violations}, fight.codes


def fresh_tenant(database: Database) -> str:
    """A tenant; where the gate is off, without the settings of the role that are a part of it."""
    role = database.tenant(f"x{next(numbers)}")
    if database.disarmed:
        database.postgres.query(f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT TRUNCATE ON TABLES TO {role}")
        database.postgres.query(f"ALTER ROLE {role} INHERIT")
        database.postgres.query(f"REVOKE vaultbrix_tenants FROM {role}")
        database.postgres.query(f"GRANT vaultbrix_tenants TO {role}")
    return role


def code(result: pq.abc.PGresult) -> str:
    """SQLSTATE, empty for success."""
    return (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
