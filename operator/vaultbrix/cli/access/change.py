"""``vaultbrix revoke`` and ``vaultbrix extend``: print what came of it."""

from datetime import UTC, datetime

from vaultbrix.access.actions import ExtendOptions, RevokeOptions, RevokeStep, extend, revoke
from vaultbrix.access.countdown import countdown
from vaultbrix.access.progress import Progress, lacking, remainders, sessions_ended
from vaultbrix.access.terms import deadline_of
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.meta import rfc3339
from vaultbrix.cli.output import say, warn
from vaultbrix.kube.person import PersonClient


async def revoke_and_print(client: PersonClient, options: RevokeOptions) -> int:
    """End the rules; returns exit code 1 when not all are reported closed in time, else 0."""
    code = 0
    async for revocation in revoke(client, options):
        rule = revocation.rule
        name = rule.metadata.name
        match revocation.step:
            case RevokeStep.ENDED_BEFORE:
                say(f"{name}: {countdown(rule, datetime.now(UTC))} ({rule.status.closed_reason}); nothing to do")
            case RevokeStep.REVOKED if not options.wait:
                say(f"{name}: revoked")
            case RevokeStep.CLOSED:
                _print_closed(rule)
            case RevokeStep.NOT_CLOSED:
                _print_not_closed(rule, options.timeout)
                code = 1
    return code


def _print_closed(rule: AccessRule) -> None:
    agents = rule.status.agents
    by = f"closed by {', '.join(agent.name for agent in agents)}" if agents else "it was not open"
    count = sessions_ended(rule)
    say(f"{rule.metadata.name}: revoked; {by}; {count} {'session' if count == 1 else 'sessions'} ended")


def _print_not_closed(rule: AccessRule, timeout: str) -> None:
    warn(f"error: {rule.metadata.name}: revoked, but not reported closed after {timeout}:")
    for remainder in remainders(rule):
        layers = ", ".join(remainder.layers) or "nothing"
        warn(f"  {remainder.agent}: {remainder.error or 'has not reported'} (still open: {layers})")
    if not rule.status.agents:
        warn("  no agent has reported on it: they are away, or never had it in force")
    warn(f"it ends at {rfc3339(deadline_of(rule))} at the latest, whatever runs or does not")


async def extend_and_print(client: PersonClient, options: ExtendOptions) -> int:
    """Move the deadline; returns exit code 1 when the change is not in force in time, else 0."""
    extended = await extend(client, options)
    rule = extended.rule
    if extended.progress in (Progress.WAITING, Progress.NEVER):
        after = f" after {options.timeout}" if extended.progress is Progress.WAITING else ""
        warn(f"error: {options.name}: changed, but not in force{after}:")
        for condition in lacking(rule):
            warn(f"  {condition.type} is {condition.status}: {condition.reason}: {condition.message}")
        return 1
    say(f"{options.name}: until {rfc3339(deadline_of(rule))} ({countdown(rule, datetime.now(UTC))})")
    return 0
