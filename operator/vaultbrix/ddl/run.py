"""Run a text in one transaction together with its ledger row: both commit, or neither.

Exit codes, which the Job's podFailurePolicy knows: 0 the text ran (now or before), 3 PostgreSQL refused it,
1 anything that another try may cure.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import psycopg
import structlog
from psycopg import sql

from vaultbrix.api.ddlapproval import ExecutionError
from vaultbrix.domain.ddlplan import plan

log = structlog.get_logger(__name__)

RAN = 0
TRY_AGAIN = 1
REFUSED = 3

# Of PostgreSQL's error classes (Appendix A) those that say nothing about the text.
_PASSING = ("08", "53", "57", "58")
_PASSING_STATES = ("40001", "40P01")


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


def run(order: Order) -> tuple[int, ExecutionError | None]:
    """Run the order; returns the exit code and, where PostgreSQL refused, why."""
    texts = plan(order.sql).texts
    position = 0
    try:
        with _connect(order) as connection:
            row = connection.execute("SELECT vaultbrix.begin_run(%s)", [order.pass_id]).fetchone()
            if row is None or not row[0]:
                log.info("the text ran before; nothing to do", pass_id=order.pass_id)
                return RAN, None
            connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(order.role)))
            for position, text in enumerate(texts, 1):
                # As the tenant's own client would send it: one simple-protocol message, byte for byte.
                connection.execute(text.encode())
                log.info("statement ran", position=position, of=len(texts))
            position = 0
            connection.commit()
    except psycopg.Error as error:
        state = error.sqlstate or ""
        message = (error.diag.message_primary or type(error).__name__)[:1024]
        log.error("PostgreSQL", sqlstate=state, message=message, statement=position)
        if not state or state[:2] in _PASSING or state in _PASSING_STATES:
            return TRY_AGAIN, ExecutionError(sqlstate=state, message=message, statement=position)
        return REFUSED, ExecutionError(sqlstate=state, message=message, statement=position)
    log.info("committed", statements=len(texts))
    return RAN, None


def _connect(order: Order) -> psycopg.Connection:
    authority = order.directory / "ca.crt"
    return psycopg.connect(
        psycopg.conninfo.make_conninfo(
            host=order.host,
            port=order.port,
            dbname=order.database,
            user=order.user,
            password=(order.directory / "password").read_text(),
            sslmode=order.ssl_mode,
            connect_timeout=10,
            application_name="vaultbrix-ddl",
            options=f"-c lock_timeout={order.lock_timeout_ms} -c statement_timeout={order.statement_timeout_ms}",
            **({"sslrootcert": str(authority)} if authority.stat().st_size else {}),
        )
    )
