"""``vaultbrix ddl wait``."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval
from vaultbrix.cli.client import User
from vaultbrix.cli.output import painted, tell, warn
from vaultbrix.ddl import review
from vaultbrix.runtime.durations import span
from vaultbrix.runtime.errors import Transient
from vaultbrix.runtime.usage import parse_span
from vaultbrix.runtime.visible import visible

if TYPE_CHECKING:
    from rich.status import Status

PAUSE_SECONDS = 0.5

NOT_YET = 7
EXIT_CODES = {
    ApprovalPhase.SUCCEEDED: 0,
    ApprovalPhase.APPROVED: 0,
    ApprovalPhase.FAILED: 3,
    ApprovalPhase.DENIED: 4,
    ApprovalPhase.EXPIRED: 5,
    ApprovalPhase.INVALID: 6,
}


async def wait(user: User, name: str, timeout: str, *, decided: bool) -> int:
    """Follow an approval to its end, or to its decision; returns the exit code that says how it came out."""
    patience = parse_span("--timeout", timeout).total_seconds()
    return await follow(user, await user.find(DDLApproval, name), patience, timeout, decided=decided)


async def follow(
    user: User, approval: DDLApproval, patience: float, timeout: str, *, decided: bool, quiet: bool = False
) -> int:
    """As wait; ``quiet`` leaves out how far it is."""
    end = asyncio.get_running_loop().time() + patience
    with _reporter(quiet=quiet) as report:
        while (outcome := review.settled(approval, decided=decided)) is None:
            report(approval)
            late = asyncio.get_running_loop().time() >= end
            if late:
                break
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                approval, _ = await user.again(approval)
            except Transient:
                # A run goes on without the API server, and so does waiting for it.
                if asyncio.get_running_loop().time() >= end:
                    raise
    return _tell(approval, outcome, timeout, quiet=quiet)


def _tell(approval: DDLApproval, outcome: ApprovalPhase | None, timeout: str, *, quiet: bool) -> int:
    name, now = approval.metadata.name, datetime.now(UTC)
    status = approval.status
    code = NOT_YET if outcome is None else EXIT_CODES[outcome]
    if code == 0:
        took = ""
        if status.started_at and status.finished_at:
            took = f"; {len(status.statements)} statements in {span(status.finished_at - status.started_at)}"
        if not quiet:
            tell(f"{name}: {review.state(approval, now)}{took}")
            for step in review.next_steps(approval) if outcome is ApprovalPhase.APPROVED else ():
                tell(step)
        return code
    still = f"not settled after {timeout}: " if outcome is None else ""
    warn(visible(f"error: {name}: {still}{review.shortfall(approval, now)}"))
    for step in review.next_steps(approval):
        warn(visible(step))
    return code


Report = Callable[[DDLApproval], None]


def _reporter(*, quiet: bool) -> AbstractContextManager[Report]:
    if quiet:
        return nullcontext(lambda approval: None)
    return _Screen() if sys.stdout.isatty() else nullcontext(_Lines())


class _Lines:
    """A line for each change worth one."""

    def __init__(self) -> None:
        self._last: object = None

    def __call__(self, approval: DDLApproval) -> None:
        milestone = review.milestone(approval)
        if milestone != self._last:
            tell(f"{approval.metadata.name}: {review.progress(approval, datetime.now(UTC))}")
        self._last = milestone


class _Screen(AbstractContextManager[Report]):
    """One line on a terminal that stays current, and is gone at the end."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415

        self._status: Status = Console(markup=False, emoji=False, highlight=False).status("")

    def __enter__(self) -> Report:
        self._status.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def _show(self, approval: DDLApproval) -> None:
        line = review.progress(approval, datetime.now(UTC))
        self._status.update(painted(f"{approval.metadata.name}: {line}"))
