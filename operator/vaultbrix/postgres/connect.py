"""Opens connections to PostgreSQL, and turns its errors into Transient or Blocked."""

import atexit
import functools
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import errors

from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Blocked, Transient

CONNECT_TIMEOUT = 5
SCRAM = "scram-sha-256"
"""Value of libpq's ``require_auth``, and of PGREQUIREAUTH, which a libpq before 16 passes over."""

# A peer that is gone without a word, as when its node or the network between is lost, is given up after some 25 s;
# the kernel's own limits are hours. Not for a server that is there and slow: its kernel answers.
NOTICES_LOST_PEER = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
# Where a tenant may create in a schema of the path, say in public, an operator or function of theirs whose arguments
# fit better than those of PostgreSQL's own would run with the rights of whoever is connected.
_PINNED = "-c search_path=pg_catalog,pg_temp"

_DENIED = (
    "password authentication failed",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "certificate verify failed",
    "authentication method requirement",
)
_DENIED_STATES = ("28000", "28P01")


@dataclass(frozen=True)
class Target:
    """Where and as whom to connect. ``ca`` is the PEM text of the CA for verify-*; the password is never shown.

    ``certificate`` and ``key`` are the client's own in PEM, empty where it has none.

    ``own_search_path``: names without a schema mean what the role's settings say, as the texts of tenants need it.
    Nothing of ours may depend on it. ``any_libpq``: it is for a program whose libpq may be older than 16.
    """

    host: str
    port: int
    database: str
    user: str
    password: str = field(default="", repr=False)
    ssl_mode: str = "verify-full"
    ca: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    application: str = "vaultbrix"
    options: str = ""
    own_search_path: bool = False
    any_libpq: bool = False


@functools.cache
def _private_directory() -> Path:
    """A folder for this process only, removed when it ends."""
    path = tempfile.mkdtemp(prefix="vaultbrix-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


@functools.cache
def _pem_file(pem: str) -> str:
    # libpq takes these as files only, and a key only if nobody else can read it.
    path = _private_directory() / f"{hashlib.sha256(pem.encode()).hexdigest()}.pem"
    path.touch(mode=0o600)
    path.write_text(pem)
    return str(path)


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[psycopg.AsyncConnection]:
    """An autocommit connection. Raises Transient or Blocked; the same holds for statements run inside."""
    with translated():
        async with await open_connection(target) as connection:
            yield connection


async def open_connection(target: Target) -> psycopg.AsyncConnection:
    """An autocommit connection that the caller closes. Raises psycopg.Error."""
    return await psycopg.AsyncConnection.connect(conninfo(target), autocommit=True)


def conninfo(target: Target) -> str:
    """libpq's connection string, which holds the password."""
    options = target.options if target.own_search_path else pinned(target.options)
    return psycopg.conninfo.make_conninfo(
        host=target.host,
        port=target.port,
        dbname=target.database,
        user=target.user,
        sslmode=target.ssl_mode,
        application_name=target.application,
        connect_timeout=CONNECT_TIMEOUT,
        **NOTICES_LOST_PEER,
        **({"options": options} if options else {}),
        **({"password": target.password} if target.password else {}),
        **_proof(target),
        **({"sslrootcert": _pem_file(target.ca)} if target.ca else {}),
        **(
            {"sslcert": _pem_file(target.certificate), "sslkey": _pem_file(target.key)}
            if target.certificate and target.key
            else {}
        ),
    )


def _proof(target: Target) -> dict[str, str]:
    """Have the server prove that it knows the password's verifier, instead of asking for the password, or for nothing.

    By libpq 16 and later it is asked for SCRAM; before that, for SCRAM bound to its certificate (PostgreSQL 34.1.2).
    """
    if not target.password:
        return {}
    return {"channel_binding": "require"} if target.any_libpq else {"require_auth": SCRAM}


def of_person(environment: Mapping[str, str]) -> str:
    """libpq's connection string where a person's environment tells the rest, as PGHOST and its kin do.

    A password goes out over TLS alone, and never in clear or as MD5, unless the environment says otherwise.
    """
    if "PGSERVICE" in environment:
        # A service says what it needs, and what is said here would go before it.
        return ""
    careful = {"PGSSLMODE": ("sslmode", "require"), "PGREQUIREAUTH": ("require_auth", "!password,!md5")}
    return psycopg.conninfo.make_conninfo(
        **{key: value for name, (key, value) in careful.items() if name not in environment}
    )


def pinned(*options: str) -> str:
    """libpq's ``options`` for a connection of ours: these, and the search_path, whatever they say of it."""
    return " ".join(filter(None, (*options, _PINNED)))


@contextmanager
def translated() -> Iterator[None]:
    """Raise psycopg's errors as Transient or Blocked, without the statement, which may have a verifier in it."""
    try:
        yield
    except psycopg.Error as error:
        raise classify(error) from None


def classify(error: psycopg.Error) -> Transient | Blocked:
    """The failure that an error of psycopg means, with a message for a condition."""
    text = _first_line(error)
    if isinstance(error, errors.InsufficientPrivilege):
        return Blocked(Reason.INSUFFICIENT_PRIVILEGE, f"PostgreSQL: {text}; the admin must be a superuser")
    if error.sqlstate in _DENIED_STATES or any(part in str(error) for part in _DENIED):
        return Blocked(
            Reason.AUTHENTICATION_FAILED,
            f"PostgreSQL: {text}; correct the user's Secret, the CA, or pg_hba.conf",
        )
    if isinstance(error, psycopg.OperationalError) and (error.sqlstate is None or error.sqlstate[:2] in ("08", "57")):
        return Transient(Reason.UNREACHABLE, f"PostgreSQL cannot be reached: {text}")
    return Transient(Reason.DATABASE_ERROR, f"PostgreSQL: {error.sqlstate or ''} {text}".replace("  ", " "))


def _first_line(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else type(error).__name__
