"""What the agents of a server say of themselves, as conditions of the server. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from vaultbrix.api.conditions import Reason, Verdict
from vaultbrix.api.postgresserver import ServerAgent

# Beyond this, deadlines and startsAt are visibly off.
MOST_SKEW_SECONDS = 5


@dataclass(frozen=True)
class Renewal:
    """When an agent's Lease was last renewed, and for how long that counts."""

    at: datetime
    lasts: timedelta


def connected(agents: Sequence[ServerAgent], renewals: Mapping[str, Renewal], now: datetime) -> list[ServerAgent]:
    """The agents whose Lease runs. ``now`` is by the clock that dated the renewals."""
    return [a for a in agents if a.name in renewals and now <= renewals[a.name].at + renewals[a.name].lasts]


def agent_connected(agents: Sequence[ServerAgent], alive: Sequence[ServerAgent]) -> Verdict:
    """Status, reason and message of AgentConnected."""
    if alive:
        return True, Reason.CONNECTED, ", ".join(a.name for a in alive)
    if agents:
        names = ", ".join(a.name for a in agents)
        return False, Reason.NO_AGENT, f"no Lease of agent {names} was renewed lately; see that it runs, and its log"
    return (
        False,
        Reason.NO_AGENT,
        "no agent has reported: run `vaultbrix agent` beside PostgreSQL; until then no rule opens anything",
    )


def clock_in_sync(alive: Sequence[ServerAgent]) -> Verdict:
    """Status, reason and message of ClockInSync."""
    if not alive:
        return None, Reason.NO_AGENT, "no agent is connected"
    off = [a for a in alive if abs(a.clock_skew_seconds) > MOST_SKEW_SECONDS]
    if not off:
        return True, Reason.IN_SYNC, f"the clocks of all agents are within {MOST_SKEW_SECONDS} s of the API server's"
    told = ", ".join(f"{a.name}'s is {_ahead(a.clock_skew_seconds)}" for a in off)
    return (
        False,
        Reason.CLOCK_SKEW,
        f"rules open and close by the agents' clocks, and agent {told}; run NTP on its host and on the API server's",
    )


def _ahead(seconds: int) -> str:
    return f"{abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}"
