"""``vaultbrix ddl wait``: prints how far an approval is, and says by its exit code how it came out."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval
from vaultbrix.cli.output import painted, tell, warn
from vaultbrix.ddl import review
from vaultbrix.ddl.actions import Waiting, WaitOptions, next_steps, wait
from vaultbrix.kube.person import Fetched, PersonClient
from vaultbrix.runtime.counted import counted
from vaultbrix.runtime.durations import span
from vaultbrix.runtime.visible import visible

if TYPE_CHECKING:
    from rich.status import Status

NOT_YET = 7
EXIT_CODES = {
    ApprovalPhase.SUCCEEDED: 0,
    ApprovalPhase.APPROVED: 0,
    ApprovalPhase.FAILED: 3,
    ApprovalPhase.DENIED: 4,
    ApprovalPhase.EXPIRED: 5,
    ApprovalPhase.INVALID: 6,
}


async def wait_and_print(client: PersonClient, options: WaitOptions) -> int:
    """Follow an approval to its end, or to its decision; returns the exit code that says how it came out."""
    code, _ = await print_waiting(client, await wait(client, options), options.timeout)
    return code


async def print_waiting(
    client: PersonClient, states: AsyncIterator[Waiting], timeout: str, *, quiet: bool = False
) -> tuple[int, Fetched[DDLApproval]]:
    """Print how far an approval is while it is waited for, and how it came out.

    Returns the exit code and the approval's last state; ``quiet`` prints nothing but what went wrong.
    """
    with _reporter(quiet=quiet) as report:
        async for waiting in states:
            if waiting.outcome is None:
                report(waiting.approval.resource)
    steps = await next_steps(client, waiting.approval.resource)
    return _print_outcome(waiting, steps, timeout, quiet=quiet), waiting.approval


def _print_outcome(waiting: Waiting, steps: list[str], timeout: str, *, quiet: bool) -> int:
    approval, outcome = waiting.approval.resource, waiting.outcome
    name, status, now = approval.metadata.name, approval.status, datetime.now(UTC)
    code = NOT_YET if outcome is None else EXIT_CODES[outcome]
    if code == 0:
        took = ""
        if status.started_at and status.finished_at:
            took = f"; {counted(len(status.statements), 'statement')} in {span(status.finished_at - status.started_at)}"
        if not quiet:
            tell(f"{name}: {review.state(approval, now)}{took}")
            for step in steps if outcome is ApprovalPhase.APPROVED else ():
                tell(step)
        return code
    still = f"not settled after {timeout}: " if outcome is None else ""
    warn(visible(f"error: {name}: {still}{review.shortfall(approval, now)}"))
    for step in steps:
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
