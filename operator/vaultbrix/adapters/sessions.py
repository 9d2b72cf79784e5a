"""The agent's connection to PostgreSQL: reload pg_hba.conf, see and end tenants' sessions.

Role vaultbrix_agent may signal backends, see their addresses and reload; nothing else.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg

from vaultbrix.adapters.postgres import Target, open_connection, translated
from vaultbrix.api.conditions import Reason
from vaultbrix.domain.access import Session, parse_address
from vaultbrix.runtime.errors import Transient

# A server that hangs must not keep the kernel's layer waiting.
PATIENCE_SECONDS = 3.0

# Sessions of tenants' own logins. A Job's login is a member of a tenant, not of vaultbrix_tenants itself;
# the operator ends it.
_SESSIONS = """
SELECT a.pid, a.usename, host(a.client_addr)
  FROM pg_stat_activity a
  JOIN pg_auth_members m ON m.member = a.usesysid
  JOIN pg_roles g ON g.oid = m.roleid AND g.rolname = 'vaultbrix_tenants'
 WHERE a.backend_type = 'client backend'
"""


class SessionControl:
    """One connection, opened when it is needed and again after it broke."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: psycopg.AsyncConnection | None = None

    async def reload(self) -> None:
        """Have PostgreSQL read pg_hba.conf. Returns once the postmaster has the signal, not once it has read."""
        await self._run("SELECT pg_reload_conf()")

    async def hba_errors(self) -> list[tuple[int, str]]:
        """(line, error) of the file on disk; PostgreSQL loads no file that has one."""
        rows = await self._run("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL")
        return [(int(line), str(error)) for line, error in rows]

    async def tenant_sessions(self) -> list[Session]:
        """All sessions of tenants' own logins."""
        rows = await self._run(_SESSIONS)
        return [
            Session(int(pid), str(role), parse_address(str(address)) if address else None)
            for pid, role, address in rows
        ]

    async def terminate(self, pids: Sequence[int]) -> None:
        """Ask these backends to end."""
        await self._run("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", [list(pids)])

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _run(self, query: LiteralString, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
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
