"""The agent's connection to PostgreSQL: it reloads pg_hba.conf, lists tenants' sessions and ends them.

Role vaultbrix_agent may signal backends, see their addresses and reload; nothing else.
"""

import asyncio
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from vaultbrix.agent.desired import Session
from vaultbrix.api.conditions import Reason
from vaultbrix.postgres.connect import Target, open_connection, translated
from vaultbrix.runtime.addresses import parse_address
from vaultbrix.runtime.errors import Transient

# A server that hangs must not keep the kernel's layer waiting.
PATIENCE_SECONDS = 3.0

_PROTOCOL = 3 << 16
_CLEARTEXT_PASSWORD = 3

# Sessions of tenants: their own logins and those of rules, members of a tenant's role. The logins of Jobs and of the
# data API are such members too; the operator ends them.
_SESSIONS = """
SELECT a.pid, a.usename, host(a.client_addr), a.client_port
  FROM pg_stat_activity a
  JOIN pg_roles r ON r.oid = a.usesysid AND NOT r.rolsuper
  JOIN pg_roles tenants ON tenants.rolname = 'vaultbrix_tenants'
 WHERE a.backend_type = 'client backend' AND (%(roles)s::text[] IS NULL OR a.usename = ANY(%(roles)s::text[]))
   AND pg_has_role(r.oid, tenants.oid, 'MEMBER')
   AND NOT EXISTS (SELECT FROM pg_roles other WHERE other.rolname IN ('vaultbrix_jobs', 'vaultbrix_rest')
                    AND pg_has_role(r.oid, other.oid, 'MEMBER'))
"""


class SessionControl:
    """Asks PostgreSQL over one connection, which is opened when it is needed and again after it broke.

    Every method raises Transient or Blocked.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: psycopg.AsyncConnection | None = None

    async def reload(self) -> None:
        """Have PostgreSQL read pg_hba.conf. Returns once the postmaster has the signal, not once it has read."""
        await self._run("SELECT pg_reload_conf()")

    async def hba_errors(self) -> list[tuple[int, str]]:
        """Return (line, error) of each line on disk that PostgreSQL cannot read; it loads no file that has one."""
        rows = await self._run("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL")
        return [(int(line), str(error)) for line, error in rows]

    async def tenant_sessions(self, roles: Collection[str] | None = None) -> list[Session]:
        """Return the sessions of all tenants, or of these login roles only."""
        rows = await self._run(_SESSIONS, {"roles": None if roles is None else list(roles)})
        return [
            Session(int(pid), str(role), parse_address(str(address)) if address else None, port)
            for pid, role, address, port in rows
        ]

    async def asks_for_password(self, database: str) -> bool:
        """Whether PostgreSQL asks this role for a password on connecting to that database.

        That tells what the pg_hba.conf says that it has loaded. The connection is closed at that question, so nothing
        is logged as a failure (message flow: PostgreSQL 55.2.1).
        """
        path = Path(self._target.host) / f".s.PGSQL.{self._target.port}"
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    body = b"".join(
                        text.encode() + b"\0" for text in ("user", self._target.user, "database", database, "")
                    )
                    writer.write(struct.pack("!ii", len(body) + 8, _PROTOCOL) + body)
                    answer = await reader.readexactly(9)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            raise Transient(Reason.UNREACHABLE, "PostgreSQL does not answer") from None
        kind, _, code = struct.unpack("!cii", answer)
        return bool(kind == b"R" and code == _CLEARTEXT_PASSWORD)

    async def terminate(self, pids: Sequence[int]) -> None:
        """Tell the backends with these process ids to end; does not wait for that."""
        await self._run("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", [list(pids)])

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _run(
        self, query: LiteralString, parameters: Sequence[object] | Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        with translated():
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    if self._connection is None or self._connection.closed:
                        self._connection = await open_connection(self._target)
                    cursor = await self._connection.execute(query, parameters)
                    return await cursor.fetchall() if cursor.description else []
            except TimeoutError:
                await self.close()
                raise Transient(Reason.UNREACHABLE, "PostgreSQL does not answer") from None
            except psycopg.OperationalError:
                await self.close()
                raise
