"""Run an approved text exactly once, by a ledger in the database.

Where all of it can run in one transaction, it does, together with its ledger row: both commit, or neither. Otherwise
the statements run one by one, each with a row of its own: a statement that can run in a transaction has it in the
same one; of any other the row says that it was begun, and once it ended, that it did. One that was begun and has no
end is never run again.

Exit codes, which the Job's podFailurePolicy knows: 0 the text ran (now or before), 3 it was refused or interrupted,
1 anything that another try may cure.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import structlog
from psycopg import sql

from vaultbrix.api.ddlapproval import ExecutionError
from vaultbrix.ddl.job.message import REFUSED_STATE, Refusals, describe, send
from vaultbrix.ddl.plan import Plan, plan
from vaultbrix.postgres.connect import NOTICES_LOST_PEER, SCRAM

log = structlog.get_logger(__name__)

RAN = 0
TRY_AGAIN = 1
REFUSED = 3

# Of PostgreSQL's error classes (Appendix A) those that say nothing about the text.
_PASSING = ("08", "53", "57", "58")
_PASSING_STATES = ("40001", "40P01")
# Of the same classes, what would be so again: a statement that took too long holds its locks for as long each time.
_CANCELLED = "57014"

# A Pod is let in once the agent has seen its address, which may be after its first attempt.
_NOT_LET_IN = ("Connection refused", "pg_hba.conf")
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Order:
    """What to run, as whom, where: the content of the Job's Secret."""

    host: str
    port: int
    database: str
    ssl_mode: str
    user: str
    role: str
    pass_id: str
    lock_timeout_ms: int
    statement_timeout_ms: int
    sql: str
    directory: Path

    @classmethod
    def read(cls, directory: Path) -> "Order":
        """Read the Secret's mounted files. Raises OSError or ValueError."""
        parameters = json.loads((directory / "parameters.json").read_text())
        return cls(**parameters, sql=(directory / "statements.sql").read_text(), directory=directory)


class _Interrupted(Exception):
    """A statement was begun before, and nobody knows how it ended."""


class _Swallowed(Exception):
    """The gate refused something, and the text went on as if nothing were."""


class _Run:
    """One attempt. ``position`` is the statement that is being run, 0 between them."""

    def __init__(self, connection: psycopg.Connection, order: Order) -> None:
        self._connection = connection
        self._order = order
        self._refusals = Refusals(connection)
        self.position = 0
        self.begun = False

    def whole(self, texts: Sequence[str]) -> bool:
        """All in one transaction; returns whether it was this one. Raises _Swallowed."""
        with self._connection.transaction():
            if not self._ask("SELECT vaultbrix.begin_run(%s)", self._order.pass_id):
                return False
            self._become("LOCAL")
            for position, text in enumerate(texts, 1):
                self.position = position
                self._send(text, len(texts))
            self.position = 0
        return True

    def one_by_one(self, approved: Plan) -> None:
        """Each statement with a step of its own. Raises _Interrupted and _Swallowed."""
        total = len(approved.texts)
        for statement, text in zip(approved.statements, approved.texts, strict=True):
            self.position, self.begun = statement.position, False
            if statement.transactional:
                with self._connection.transaction():
                    if self._begin():
                        self._become("LOCAL")
                        self._send(text, total)
                        self._end()
            elif self._begin():
                self.begun = True
                self._become("SESSION")
                self._send(text, total)
                self._end()
        self.position = 0

    def _begin(self) -> bool:
        answer = self._ask("SELECT vaultbrix.begin_step(%s, %s)", self._order.pass_id, self.position)
        if answer == "unknown":
            raise _Interrupted
        return answer == "run"

    def _end(self) -> None:
        self._ask("SELECT vaultbrix.end_step(%s, %s)", self._order.pass_id, self.position)

    def _become(self, scope: str) -> None:
        # Before every statement: what ran last may have changed it.
        self._connection.execute(sql.SQL("SET {} ROLE {}").format(sql.SQL(scope), sql.Identifier(self._order.role)))

    def _send(self, text: str, total: int) -> None:
        send(self._connection, text)
        if self._refusals.swallowed:
            raise _Swallowed(self._refusals.swallowed)
        log.info("statement ran", position=self.position, of=total)

    def _ask(self, query: str, *parameters: object) -> object:
        row = self._connection.execute(query.encode(), parameters).fetchone()
        return row[0] if row else None


def run(order: Order) -> tuple[int, ExecutionError | None]:
    """Run the order; returns the exit code and, where PostgreSQL refused, why."""
    approved = plan(order.sql)
    attempt: _Run | None = None
    try:
        with _connect(order) as connection:
            attempt = _Run(connection, order)
            if not approved.transactional:
                attempt.one_by_one(approved)
            elif not attempt.whole(approved.texts):
                log.info("the text ran before; nothing to do", pass_id=order.pass_id)
                return RAN, None
    except psycopg.Error as error:
        return _failed(error, attempt)
    except _Swallowed as error:
        assert attempt is not None
        log.error("refused", statement=attempt.position, message=str(error))
        return REFUSED, ExecutionError(sqlstate=REFUSED_STATE, message=str(error), statement=attempt.position)
    except _Interrupted:
        assert attempt is not None
        text = "it was begun by an earlier attempt that did not see it end"
        log.error("interrupted", statement=attempt.position, message=text)
        return REFUSED, ExecutionError(message=text, statement=attempt.position)
    log.info("committed", statements=len(approved.texts))
    return RAN, None


def _failed(error: psycopg.Error, attempt: _Run | None) -> tuple[int, ExecutionError]:
    position = attempt.position if attempt else 0
    state = error.sqlstate or ""
    message = describe(state, error.diag.message_primary or type(error).__name__, error.diag.message_detail)
    log.error("PostgreSQL", sqlstate=state, message=message, statement=position)
    lost = not state or (state[:2] in _PASSING and state != _CANCELLED)
    # One that PostgreSQL says has failed outside a transaction is not run again, whatever the cause.
    again = lost or (state in _PASSING_STATES and not (attempt and attempt.begun))
    return TRY_AGAIN if again else REFUSED, ExecutionError(sqlstate=state, message=message, statement=position)


def _connect(order: Order) -> psycopg.Connection:
    """A connection whose search_path is that of the login's settings, for which the text was written.

    What we send on it ourselves names every schema, and compares nothing.
    """
    authority = order.directory / "ca.crt"
    conninfo = psycopg.conninfo.make_conninfo(
        host=order.host,
        port=order.port,
        dbname=order.database,
        user=order.user,
        password=(order.directory / "password").read_text(),
        sslmode=order.ssl_mode,
        require_auth=SCRAM,
        connect_timeout=10,
        **NOTICES_LOST_PEER,
        application_name="vaultbrix-ddl",
        options=f"-c lock_timeout={order.lock_timeout_ms} -c statement_timeout={order.statement_timeout_ms}",
        **({"sslrootcert": str(authority)} if authority.stat().st_size else {}),
    )
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            # Without prepare_threshold a text that says the same thing often would be sent by the extended protocol.
            return psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.OperationalError as error:
            if time.monotonic() > until or not any(part in str(error) for part in _NOT_LET_IN):
                raise
        time.sleep(_PAUSE_SECONDS)
