"""pg_hba.conf as text (PostgreSQL 21.1): renders our block, and separates it from the lines of others. Pure."""

import functools
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vaultbrix.api.login_names import logins_of
from vaultbrix.runtime.templates import render

HBA_BEGIN = "# BEGIN VAULTBRIX"
HBA_END = "# END VAULTBRIX"


def hba_quote(name: str) -> str:
    """A name as pg_hba.conf takes it literally (PostgreSQL 21.1): quoted, so that it is no keyword or ``+group``.

    Raises ValueError for a character that the file cannot hold inside quotes.
    """
    if any(c in name for c in '"\n\r\0'):
        raise ValueError("a name in pg_hba.conf cannot hold quotes or line ends")
    return f'"{name}"'


@dataclass(frozen=True)
class Admin:
    """The operator's login, and whether it needs a client certificate in its name besides its password."""

    name: str
    certificate: bool = False


@functools.lru_cache(maxsize=131_072)
def _hba_grant(database: str, role: str, cidr: str) -> str:
    # Cached line by line, since a block of ten thousand lines differs from the one before in one of them.
    # The second login is let in from the start, whether there is one or not: it works as soon as it is made.
    logins = ",".join(map(hba_quote, logins_of(role)))
    return f"hostssl {hba_quote(database)} {logins} {cidr} scram-sha-256\n"


def hba_block(
    *,
    database: str,
    pairs: Sequence[tuple[str, str]],
    trusted: Sequence[str],
    probe: str = "",
    admin: Admin | None = None,
) -> str:
    """The marked block that goes first in pg_hba.conf: (role, CIDR) pairs, Jobs, data API, then reject for all of ours.

    ``admin`` is let in over TCP from trusted sources, and from nowhere else; None: other lines say about it. What is
    rejected names replication, too, which ``all`` does not match: lines of others below may let anybody replicate.

    ``probe`` is the name of a database that does not exist. PostgreSQL asks vaultbrix_agent, which has no password, for
    one on connecting to that database if and only if it has loaded this block.
    """
    return render(
        "agent/host/pg_hba.conf.j2",
        quote=hba_quote,
        begin=HBA_BEGIN,
        end=HBA_END,
        database=database,
        grants="".join(_hba_grant(database, role, cidr) for role, cidr in pairs),
        trusted=trusted,
        probe=probe,
        admin=admin,
    )


# Lines of a block whose end mark somebody took away.
_OURS = re.compile(
    r"# Written by vaultbrix agent;.*"
    r'|local "vaultbrix_probe_\w*" vaultbrix_agent password'
    r'|hostssl "[^"]*" ("tenant_\w*"(,"tenant_\w*")?|\+vaultbrix_(jobs|rest)) \S+ scram-sha-256'
    r'|hostssl all "[^"]*" \S+ scram-sha-256( clientcert=verify-full)?|host all(,replication)? "[^"]*" all reject'
    r"|(local|host) all(,replication)? \+vaultbrix_tenants(,\+vaultbrix_rest)?(,vaultbrix_agent)?( all)? reject"
)


def foreign_hba(content: str) -> str:
    """Return the lines of a pg_hba.conf that are not ours, unchanged.

    Where our end mark is missing, only lines that look as we write them count as ours.
    """
    kept: list[str] = []
    block: list[str] | None = None
    # Lines as PostgreSQL reads them; splitlines() knows many more ends.
    for line in io.StringIO(content, newline=""):
        mark = line.strip()
        if mark == HBA_BEGIN:
            kept += _not_ours(block)
            block = []
        elif mark == HBA_END and block is not None:
            block = None
        elif block is not None:
            block.append(line)
        else:
            kept.append(line)
    return "".join([*kept, *_not_ours(block)])


def _not_ours(block: list[str] | None) -> list[str]:
    return [line for line in block or () if not _OURS.fullmatch(line.strip())]


def splice_hba(content: str, block: str) -> str:
    """Return the content of the file with our block first and everything else as it was."""
    return block + foreign_hba(content)
