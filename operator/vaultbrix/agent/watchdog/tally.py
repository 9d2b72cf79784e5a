"""Counts what the watchdog ended, for the statuses of the server and of rules. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from vaultbrix.agent.watchdog.decisions import Ending
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.postgresserver import WatchdogEnd

# As many as the server's status has room for.
MOST_ENDS = 8
MOST_RULES = 1_000


@dataclass(frozen=True)
class RuleEnds:
    """Sessions of one rule that were ended: how many, and what was measured of the latest."""

    sessions: int = 0
    message: str = ""


NONE_ENDED = RuleEnds()


class Tally:
    """What was ended, the latest last; what is older than there is room for is forgotten."""

    def __init__(self, agent: str) -> None:
        """``agent`` is the name under which this agent reports."""
        self._agent = agent
        self._ends: dict[tuple[str, str], WatchdogEnd] = {}
        self._rules: dict[str, RuleEnds] = {}

    @property
    def ends(self) -> list[WatchdogEnd]:
        """The latest, one for each tenant and limit."""
        return list(self._ends.values())

    def of_rule(self, uid: str) -> RuleEnds:
        """What was ended under a rule, by its uid."""
        return self._rules.get(uid, NONE_ENDED)

    def add(self, ending: Ending, rules: Iterable[AccessRule], now: datetime) -> None:
        """Count a session that was told to end; ``rules`` are those that let it in."""
        key = (ending.owner.tenant, str(ending.limit))
        before = self._ends.pop(key, None)
        self._ends[key] = WatchdogEnd(
            tenant=ending.owner.tenant,
            limit=str(ending.limit),
            sessions=before.sessions + 1 if before else 1,
            message=ending.message[:256],
            at=now,
        )
        if len(self._ends) > MOST_ENDS:
            del self._ends[next(iter(self._ends))]
        for rule in rules:
            known = self._rules.pop(rule.metadata.uid, None) or self._reported(rule)
            self._rules[rule.metadata.uid] = RuleEnds(known.sessions + 1, ending.message[:256])
        while len(self._rules) > MOST_RULES:
            del self._rules[next(iter(self._rules))]

    def _reported(self, rule: AccessRule) -> RuleEnds:
        """What this agent reported before it was started anew."""
        report = next((a for a in rule.status.agents if a.name == self._agent), None)
        return RuleEnds(report.ended_by_watchdog, report.watchdog) if report else NONE_ENDED
