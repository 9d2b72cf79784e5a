"""``vaultbrix allow``: prints what came of it, and how to connect."""

from datetime import UTC, datetime

from vaultbrix.access.actions import ME, Allowed, AllowOptions, Connection, allow
from vaultbrix.access.approval import waits_for_decision
from vaultbrix.access.countdown import countdown
from vaultbrix.access.progress import Progress, lacking
from vaultbrix.access.terms import deadline_of, start_of
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import ConditionType
from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.api.meta import rfc3339
from vaultbrix.cli.output import Format, document, say, warn
from vaultbrix.kube.person import PersonClient
from vaultbrix.postgres.shell_lines import ShellCredentials


async def allow_and_print(client: PersonClient, options: AllowOptions, form: Format) -> int:
    """Create the rule, wait, and say how to connect; returns exit code 1 when it is not in force in time, else 0."""
    allowed = await allow(client, options, WaitingNote())
    if ME in options.cidrs:
        # The answer of the echo is plain text: whoever is on the path could name an address of theirs.
        warn(
            f"note: {', '.join(allowed.rule.resource.spec.cidrs)}: what me stands for was told by the server's echo, "
            "which proves nothing; see that it is an address of yours"
        )
        if any(":" in cidr for cidr in allowed.rule.resource.spec.cidrs):
            warn("note: you reach the server over IPv6; connections over IPv4 need a rule for your IPv4 address")
    if form is not Format.TABLE:
        document(allowed.rule.manifest, form)
    if allowed.progress is None:
        if form is Format.TABLE:
            _print_created(allowed.rule.resource, dry_run=options.dry_run)
        return 0
    if not allowed.in_force:
        _print_not_in_force(allowed, options.timeout)
        return 1
    if form is Format.TABLE:
        _print_in_force(allowed)
    return 0


class WaitingNote:
    """Says once, as soon as it is known, that a rule waits for somebody's decision, and for whose."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, rule: AccessRule) -> None:
        if self._told or not waits_for_decision(rule):
            return
        self._told = True
        warn(f"AccessRule {_name(rule)} until {rfc3339(deadline_of(rule))} waits for an approval:")
        for line in (c.message for c in rule.status.conditions if c.type == ConditionType.ACCEPTED):
            warn(f"  {line}")


def _print_created(rule: AccessRule, *, dry_run: bool) -> None:
    done = "would be created" if dry_run else "is created"
    say(f"AccessRule {_name(rule)} {done}, for {', '.join(rule.spec.cidrs)} {_life(rule)}")


def _name(rule: AccessRule) -> str:
    return f"{rule.metadata.name} in namespace {rule.metadata.namespace}"


def _life(rule: AccessRule) -> str:
    since = f"from {rfc3339(start_of(rule))} " if rule.spec.starts_at else ""
    return f"{since}until {rfc3339(deadline_of(rule))}"


def _print_in_force(allowed: Allowed) -> None:
    rule = allowed.rule.resource
    opens = "is open" if allowed.progress is Progress.READY else f"is accepted and {countdown(rule, datetime.now(UTC))}"
    say(f"AccessRule {_name(rule)} {opens}: {', '.join(rule.spec.cidrs)} {_life(rule)}")
    _print_connection(allowed.connection, rule.metadata.namespace)
    say(f"It ends by itself. Earlier: vaultbrix revoke {rule.metadata.name} -n {rule.metadata.namespace}")


def _print_not_in_force(allowed: Allowed, timeout: str) -> None:
    rule = allowed.rule.resource
    after = f" after {timeout}" if allowed.progress is Progress.WAITING else ""
    warn(f"error: AccessRule {_name(rule)} is created but not in force{after}:")
    for condition in lacking(rule):
        warn(f"  {condition.type} is {condition.status}: {condition.reason}: {condition.message}")
    if not rule.status.conditions:
        warn("  nothing has looked at it yet; is the operator running?")
    denied = rule.spec.decision is not None and rule.spec.decision.verdict is Verdict.DENIED
    if not denied:
        warn(f"it may still open; to take it back: vaultbrix revoke {rule.metadata.name} -n {rule.metadata.namespace}")


def _print_connection(connection: Connection, namespace: str) -> None:
    say()
    if connection.server is not None:
        say(f"  host    {connection.server.endpoint.host}")
        say(f"  port    {connection.server.endpoint.port}")
    say(f"  role    {connection.role}")
    say(f"  secret  {connection.secret} (keys host, port, dbname, username, password, uri, ca.crt)")
    say()
    # Without the server's object there is no telling; most have a CA.
    has_ca = connection.server is None or connection.server.ca_secret is not None
    secret = ShellCredentials(namespace, connection.secret, has_ca)
    for line in (*secret.preparation, f"psql {secret.conninfo}"):
        say(f"  {line}")
    say()
