"""``vaultbrix approve`` and ``vaultbrix deny`` of an AccessRule: what was shown is what is decided."""

from datetime import UTC, datetime
from ipaddress import ip_network

from vaultbrix.access.approval import SHORT, approval, waits_for_decision
from vaultbrix.access.countdown import countdown
from vaultbrix.access.deciding import RuleDecisionOptions, ShownRule, decide_on_rule, show_rule_for_decision
from vaultbrix.access.terms import deadline_of, length_of, start_of
from vaultbrix.api.accessrule import RuleLogin
from vaultbrix.api.conditions import ConditionType, find_condition
from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.api.meta import format_duration, rfc3339
from vaultbrix.cli.confirm import ask_for_hash
from vaultbrix.cli.output import tell
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.durations import span


async def show_rule_and_decide(client: PersonClient, options: RuleDecisionOptions, *, yes: bool) -> int:
    """Show what the rule gives, ask unless ``yes`` or a sha256 is given, write the decision; returns exit code 0."""
    shown = await show_rule_for_decision(client, options)
    _describe(shown)
    sha256 = shown.check()
    verb = "approve" if options.verdict is Verdict.APPROVED else "deny"
    if not options.sha256 and not yes:
        shown.check_typed(ask_for_hash(verb, sha256, SHORT))
    rule = await decide_on_rule(client, shown)
    name, namespace = rule.metadata.name, rule.metadata.namespace
    tell(f"AccessRule {name} in namespace {namespace} is {str(options.verdict).lower()} by {shown.by}")
    if options.verdict is Verdict.APPROVED:
        tell(f"It ends by itself. Earlier: vaultbrix revoke {name} -n {namespace}")
    return 0


def _describe(shown: ShownRule) -> None:
    """Print what the rule gives, to whom and why, with all that can hide in it made visible."""
    rule, now = shown.rule, datetime.now(UTC)
    spec, meta = rule.spec, rule.metadata
    asked = span(now - meta.creation_timestamp)
    tell(f"AccessRule {meta.name} in namespace {meta.namespace}: {rule.status.phase or 'New'}", "bold")
    tell()
    role = f", role {shown.tenant.role} on server {shown.tenant.spec.server_ref.name}" if shown.tenant else ""
    _print_field("tenant", f"{spec.tenant_ref.name}{role}")
    for number, cidr in enumerate(spec.cidrs):
        _print_field("" if number else "addresses", f"{cidr}{_size(cidr)}")
    _print_field("from", rfc3339(start_of(rule)))
    _print_field(
        "until", f"{rfc3339(deadline_of(rule))}, {format_duration(length_of(rule))} in all; {countdown(rule, now)}"
    )
    own = spec.login is RuleLogin.PER_RULE
    _print_field("login", "one of the rule's own, dropped when it ends" if own else "the tenant's")
    _print_field("requested by", f"{spec.requested_by}, {asked} ago")
    _print_field("reason", spec.reason)
    _print_field("sha256", rule.status.sha256 or "not yet known")
    if spec.decision is not None:
        of = "" if approval(rule) or spec.decision.verdict is Verdict.DENIED else ", of what it gave before an edit"
        message = f": {spec.decision.message}" if spec.decision.message else ""
        short = spec.decision.sha256[:SHORT]
        _print_field("decision", f"{spec.decision.verdict} by {spec.decision.by}{of} (sha256 {short}){message}")
    accepted = find_condition(rule.status.conditions, ConditionType.ACCEPTED)
    if accepted is not None and not waits_for_decision(rule):
        _print_field("state", f"{accepted.reason}: {accepted.message}")
    tell()


def _size(cidr: str) -> str:
    count = ip_network(cidr).num_addresses
    return f", {count:,} addresses" if count > 1 else ""


def _print_field(name: str, value: str) -> None:
    tell(f"  {name:14}{value}")
