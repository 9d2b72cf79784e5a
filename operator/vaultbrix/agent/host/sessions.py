"""What the agent asks of PostgreSQL: to reload pg_hba.conf, which sessions there are, and to end some.

Role vaultbrix_agent may signal backends, see their addresses and reload; nothing else.
"""

import asyncio
import contextlib
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from vaultbrix.agent.desired import Session
from vaultbrix.agent.host.kept_connection import PATIENCE_SECONDS, KeptConnection
from vaultbrix.api.conditions import Reason
from vaultbrix.postgres.connect import Target
from vaultbrix.runtime.addresses import parse_address
from vaultbrix.runtime.errors import Expected, Transient

log = structlog.get_logger(__name__)

_PROTOCOL = 3 << 16
_CLEARTEXT_PASSWORD = 3

# Takes no lock and no room in shared memory, so that it works where none is left; pg_stat_activity reads catalogs.
_SESSIONS = """
SELECT pid, usesysid, pg_catalog.host(client_addr), client_port
  FROM pg_catalog.pg_stat_get_activity(NULL)
 WHERE backend_type = 'client backend' AND usesysid IS NOT NULL
"""

# Tenants' own logins and those of rules are members of a tenant's role. The logins of Jobs and of the data API are such
# members too; the operator ends their sessions.
_ROLES = """
SELECT r.oid, r.rolname,
       NOT r.rolsuper
       AND EXISTS (SELECT FROM pg_roles tenants WHERE tenants.rolname = 'vaultbrix_tenants'
                    AND pg_has_role(r.oid, tenants.oid, 'MEMBER'))
       AND NOT EXISTS (SELECT FROM pg_roles other WHERE other.rolname IN ('vaultbrix_jobs', 'vaultbrix_rest')
                        AND pg_has_role(r.oid, other.oid, 'MEMBER'))
  FROM pg_roles r WHERE r.oid = ANY(%s::oid[])
"""

# The log names a session by its start in whole seconds, and its process id.
_STARTED = """
SELECT a.pid, a.usename, host(a.client_addr), floor(extract(epoch FROM a.backend_start))::bigint
  FROM pg_stat_activity a
  JOIN pg_roles tenants ON tenants.rolname = 'vaultbrix_tenants'
  JOIN pg_roles r ON r.oid = a.usesysid AND NOT r.rolsuper AND pg_has_role(r.oid, tenants.oid, 'MEMBER')
 WHERE a.backend_type = 'client backend'
"""


@dataclass(frozen=True)
class _Role:
    name: str
    of_tenant: bool


class SessionControl:
    """Asks PostgreSQL over one connection that is kept. Every method raises Transient or Blocked."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._postgres = KeptConnection(target)
        # By oid: what a role was when it was last looked up.
        self._roles: dict[int, _Role] = {}
        self._learned_by = 0
        self._present: set[int] = set()

    async def keep(self, opened: Callable[[], None]) -> None:
        """Keep the connection open until cancelled; ``opened`` is called each time it was opened."""
        await self._postgres.keep(opened)

    async def reload(self) -> None:
        """Have PostgreSQL read pg_hba.conf. Returns once the postmaster has the signal, not once it has read."""
        await self._postgres.run("SELECT pg_reload_conf()")

    async def hba_errors(self) -> list[tuple[int, str]]:
        """Return (line, error) of each line on disk that PostgreSQL cannot read; it loads no file that has one."""
        rows = await self._postgres.run("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL")
        return [(int(line), str(error)) for line, error in rows]

    async def sessions(self) -> list[Session]:
        """Return all sessions. Only roles that were not seen before have to be looked up."""
        rows = await self._postgres.run(_SESSIONS)
        if self._learned_by != self._postgres.opened:
            # Data that were put back from a backup may have other roles by the same oids.
            self._roles, self._learned_by = {}, self._postgres.opened
        self._present = {int(oid) for _, oid, _, _ in rows}
        unknown = self._present - self._roles.keys()
        if unknown:
            try:
                await self._look_up(unknown)
            except Expected as error:
                log.warning("cannot look up roles", message=error.message)
        return [self._session(*row) for row in rows]

    async def refresh_roles(self) -> None:
        """Look up again the roles of all sessions that there were at the last look."""
        if self._present:
            await self._look_up(self._present)

    async def terminate(self, pids: Sequence[int]) -> None:
        """Tell the backends with these process ids to end; does not wait for that."""
        try:
            await self._terminate(pids)
        except Expected as error:
            if error.reason is Reason.UNREACHABLE or len(pids) < 2:
                raise
            # One that PostgreSQL refuses, or has no room to look up, must not keep the others alive.
            for pid in pids:
                with contextlib.suppress(Expected):
                    await self._terminate([pid])
            raise

    async def close(self) -> None:
        """Close the connection."""
        await self._postgres.close()

    async def started_sessions(self) -> list[tuple[int, str, str, int]]:
        """List all sessions of members of tenants' roles: process id, login, address, start in seconds since 1970.

        Those of Jobs and of the data API are among them. The address is empty on a Unix socket.
        """
        rows = await self._postgres.run(_STARTED)
        return [(int(pid), str(role), str(address or ""), int(started)) for pid, role, address, started in rows]

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

    async def _terminate(self, pids: Sequence[int]) -> None:
        await self._postgres.run("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", [list(pids)])

    async def _look_up(self, oids: Collection[int]) -> None:
        rows = await self._postgres.run(_ROLES, [sorted(oids)])
        found = {int(oid): _Role(str(name), bool(of_tenant)) for oid, name, of_tenant in rows}
        # A role that was dropped under its session: no grant covers that.
        dropped = {oid: _Role(f"role {oid}, dropped", True) for oid in oids if oid not in found}
        self._roles |= found | dropped

    def _session(self, pid: int, oid: int, address: str | None, port: int | None) -> Session:
        role = self._roles.get(int(oid), _Role("", True))
        return Session(int(pid), role.name, parse_address(address) if address else None, port, role.of_tenant)
