"""PostgreSQL's layer: writes our block in pg_hba.conf and confirms that PostgreSQL has loaded it."""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Coroutine
from typing import Any, TypeVar

from vaultbrix.agent.desired import Desired
from vaultbrix.agent.host.hba import HbaFile
from vaultbrix.agent.host.hba_text import Admin, hba_block
from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Expected, Transient

# How long PostgreSQL may take to load the file; 50,000 lines take it less than half of that.
_LOADING_SECONDS = 1.0
# How long PostgreSQL may take to say that it was told to reload, before the kernel opens without that.
_TELLING_SECONDS = 0.1
# How long it is waited for PostgreSQL's answer while there is more to do already.
_HURRIED_SECONDS = 0.005

_T = TypeVar("_T")


class HbaLayer:
    """Writes the block when it changed, and asks PostgreSQL itself whether that block is loaded."""

    def __init__(self, file: HbaFile, control: SessionControl, desired: Desired, admin: Admin | None = None) -> None:
        self._file = file
        self._control = control
        self._desired = desired
        self._admin = admin
        self._probe_prefix = f"vaultbrix_probe_{secrets.token_hex(4)}"
        self._numbers = itertools.count()
        self._probe = ""
        self._written_with: tuple[str, tuple[str, ...]] = ("", ())
        self._dirty = True
        self._reload_due = False
        self._broken = False
        self.loaded = False
        """Whether PostgreSQL is known to have loaded what is desired."""

    def touch(self) -> None:
        """Have the next ``write`` write the block even if nothing else about it changed."""
        self._dirty = True

    def changed(self) -> bool:
        """Whether somebody else wrote the file since; then the next ``write`` writes it again."""
        try:
            self._dirty = self._dirty or self._file.changed_by_others()
        except Expected:
            return True
        return self._dirty

    async def write(self, database: str, trusted: tuple[str, ...]) -> None:
        """Write the block if it changed, and have PostgreSQL reload until it is loaded. Raises Transient or Blocked.

        Where PostgreSQL is slow to say that it was told to, ``confirm`` waits for that.
        """
        if self._dirty or self._written_with != (database, trusted):
            self.loaded = False
            self._probe = f"{self._probe_prefix}_{next(self._numbers)}"
            block = hba_block(
                database=database,
                pairs=self._desired.pairs,
                trusted=trusted,
                probe=self._probe,
                admin=self._admin,
            )
            await asyncio.to_thread(self._file.write, block)
            self._dirty, self._written_with, self._reload_due = False, (database, trusted), True
        if self._reload_due or not self.loaded:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TELLING_SECONDS):
                    await self._reload()

    async def confirm(self, hurry: asyncio.Event) -> None:
        """Wait until PostgreSQL has loaded the block. Raises Transient, naming the line that it cannot read.

        Gives up waiting, with ``loaded`` still False, once ``hurry`` is set: whoever keeps PostgreSQL from answering
        must not delay the end of a rule.
        """
        if self.loaded:
            return
        if self._reload_due:
            await _unless(hurry, self._reload())
        if self._broken:
            await _unless(hurry, self._raise_if_broken())
        pause, left = 0.001, _LOADING_SECONDS
        while not await _unless(hurry, self._control.asks_for_password(self._probe)):
            if left <= 0:
                await _unless(hurry, self._raise_if_broken())
                raise Transient(Reason.HBA_FAILED, "PostgreSQL has not loaded pg_hba.conf yet")
            if hurry.is_set():
                return
            await asyncio.sleep(pause)
            left -= pause
            pause = min(2 * pause, 0.05)
        self.loaded, self._broken = True, False

    async def _reload(self) -> None:
        await self._control.reload()
        self._reload_due = False

    async def _raise_if_broken(self) -> None:
        broken = await self._control.hba_errors()
        self._broken = bool(broken)
        if broken:
            line, error = broken[0]
            raise Transient(
                Reason.HBA_FAILED,
                f"pg_hba.conf line {line}: {error}; PostgreSQL loads no file with an error, so correct that line",
            )


async def _unless(hurry: asyncio.Event, asking: Coroutine[Any, Any, _T]) -> _T | None:
    """Return what PostgreSQL is asked for, or None where that takes longer than there is time once ``hurry`` is set."""
    answer = asyncio.create_task(asking)
    hurried = asyncio.create_task(hurry.wait())
    try:
        await asyncio.wait({answer, hurried}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({answer}, timeout=_HURRIED_SECONDS)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
        hurried.cancel()
