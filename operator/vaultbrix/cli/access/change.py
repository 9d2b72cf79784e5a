"""``vaultbrix revoke`` and ``vaultbrix extend``: print what came of it."""

from datetime import UTC, datetime

from vaultbrix.access.actions import ExtendOptions, RevokeOptions, RevokeStep, extend, revoke
from vaultbrix.access.countdown import countdown
from vaultbrix.access.progress import Progress, lacking, remainders, sessions_ended
from vaultbrix.access.terms import deadline_of
from vaultbrix.api.accessrule import AccessRule, RuleLogin
from vaultbrix.api.meta import rfc3339
from vaultbrix.cli.access.allow import WaitingNote
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
    note = _ExtensionNote(options.name)
    extended = await extend(client, options, note)
    rule, name = extended.rule, extended.rule.metadata.name
    if not options.wait:
        note(rule)
    if extended.progress in (Progress.WAITING, Progress.NEVER):
        after = f" after {options.timeout}" if extended.progress is Progress.WAITING else ""
        done = "changed" if extended.first is None else "created"
        warn(f"error: {name}: {done}, but not in force{after}:")
        for condition in lacking(rule):
            warn(f"  {condition.type} is {condition.status}: {condition.reason}: {condition.message}")
        return 1
    say(f"{name}: until {rfc3339(deadline_of(rule))} ({countdown(rule, datetime.now(UTC))})")
    return 0


class _ExtensionNote(WaitingNote):
    """Says at once that a second rule was made, where one was, and that it waits."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._second_told = False

    def __call__(self, rule: AccessRule) -> None:
        if rule.metadata.name != self._name and not self._second_told:
            self._second_told = True
            self._tell_second(rule)
        super().__call__(rule)

    def _tell_second(self, rule: AccessRule) -> None:
        say(
            f"{self._name} goes on as it is, since an edit would close it until it is approved anew; "
            f"{rule.metadata.name} gives the same until {rfc3339(deadline_of(rule))}, once it may open"
        )
        if rule.spec.login is RuleLogin.PER_RULE:
            say(f"its login is another one, in Secret {rule.secret_name}; sessions of {self._name} end with it")
        else:
            say("sessions go on while either of them is open")
