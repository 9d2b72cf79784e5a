"""The two databases of all attacks, and the table of how they ended."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.harness.database import Database
from tests.harness.database import running as database_running


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    family: str
    case: str
    gated: str
    disarmed: str


@pytest.fixture(scope="session")
def databases() -> Iterator[tuple[Database, Database]]:
    """With the gate, and without."""
    with contextlib.ExitStack() as stack:
        gated, disarmed = (stack.enter_context(database_running()) for _ in range(2))
        disarmed.set_gate(enabled=False)
        disarmed.disarmed = True
        yield gated, disarmed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each attack, from whichever worker it ran in."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    outcomes = [Outcome(*value) for report in reports for name, value in report.user_properties if name == "attack"]
    if not outcomes:
        return
    terminalreporter.section("attacks on the gate")
    width = max(len(outcome.case) for outcome in outcomes)
    family = ""
    for outcome in sorted(outcomes, key=lambda o: (o.family, o.case)):
        if outcome.family != family:
            family = outcome.family
            terminalreporter.line(f"\n{family}")
        terminalreporter.line(f"  {outcome.case:<{width}}  with gate: {outcome.gated:<8} without: {outcome.disarmed}")
    held = sum(outcome.gated == "held" for outcome in outcomes)
    terminalreporter.line(f"\n{len(outcomes)} cases, {held} held")
