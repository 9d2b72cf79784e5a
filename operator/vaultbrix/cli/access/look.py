"""``vaultbrix rules`` and ``vaultbrix explain``: print rules, and why an address is let in or not."""

import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vaultbrix.access.actions import ExplainOptions, explain_address
from vaultbrix.access.approval import approval
from vaultbrix.access.countdown import countdown, ended_at
from vaultbrix.access.explain import Finding
from vaultbrix.access.listing import RuleChange, RulesOptions, list_rules, watch_rules
from vaultbrix.access.progress import readiness, sessions_open
from vaultbrix.access.terms import deadline_of
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.ddlapproval import Verdict
from vaultbrix.api.meta import rfc3339
from vaultbrix.cli.output import Format, document, say, short, show, table
from vaultbrix.kube.person import PersonClient, manifest_list
from vaultbrix.runtime.usage import Misused

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

HEADERS = ("NAME", "TENANT", "CIDRS", "PHASE", "TIME", "SESSIONS", "READY", "REQUESTED BY", "REASON")
DECIDED = "DECISION"


async def print_rules(client: PersonClient, options: RulesOptions, form: Format, *, watch: bool) -> int:
    """Print the rules, with ``watch`` for ever as they change; returns exit code 0."""
    if watch and form is not Format.TABLE:
        raise Misused(f"--watch goes with -o table only; for objects as they change: kubectl get ar -w -o {form}")
    if watch:
        return await _watch(client, options)
    rules = await list_rules(client, options)
    if form is not Format.TABLE:
        document(manifest_list(rules), form)
    elif rules:
        show(_table([rule.resource for rule in rules], options, datetime.now(UTC)))
    else:
        where = "any namespace" if options.everywhere else f"namespace {client.namespace}"
        of = f" of Tenant {options.tenant}" if options.tenant else ""
        if options.pending:
            say(f"no rule{of} waits for a decision in {where}")
        else:
            ended = f"no rule{of} in {where}"
            say(ended if options.ended else f"no rule{of} is open in {where}; --all shows ended ones")
    return 0


def _table(rules: Iterable[AccessRule], options: RulesOptions, now: datetime) -> "Table":
    ordered = sorted(rules, key=lambda r: (r.metadata.namespace, ended_at(r, now) is not None, deadline_of(r)))
    # A column that says nothing costs those that do, where the terminal is narrow.
    decisions = any(rule.spec.decision is not None for rule in ordered)
    headers = (*(["NAMESPACE"] if options.everywhere else []), *HEADERS, *([DECIDED] if decisions else []))
    return table(headers, [_row(r, now, everywhere=options.everywhere, decisions=decisions) for r in ordered])


def _row(rule: AccessRule, now: datetime, *, everywhere: bool, decisions: bool, deleted: bool = False) -> list[object]:
    return [
        *([rule.metadata.namespace] if everywhere else []),
        rule.metadata.name,
        rule.spec.tenant_ref.name,
        ", ".join(rule.spec.cidrs),
        "Deleted" if deleted else rule.status.phase or "",
        "" if deleted else countdown(rule, now),
        sessions_open(rule),
        "" if deleted else readiness(rule.status.conditions, rule.status.closed_reason),
        rule.spec.requested_by,
        short(rule.spec.reason),
        *([_decision(rule)] if decisions else []),
    ]


def _decision(rule: AccessRule) -> str:
    """Who decided what, and whether that is of what the rule gave before an edit."""
    decision = rule.spec.decision
    if decision is None:
        return ""
    outdated = decision.verdict is Verdict.APPROVED and approval(rule) is None
    return f"{decision.verdict} by {decision.by}{' (outdated)' if outdated else ''}"


async def _watch(client: PersonClient, options: RulesOptions) -> int:
    """For ever: on a terminal the table as it is now, elsewhere a table, then a line for each change."""
    rules: dict[str, AccessRule] = {}

    def current() -> "Table":
        now = datetime.now(UTC)
        return _table([rule for rule in list(rules.values()) if options.includes(rule, now)], options, now)

    live = sys.stdout.isatty()
    table_printed = live
    with _screen(current) if live else nullcontext():
        async for update in watch_rules(client, options):
            if isinstance(update, RuleChange):
                if update.deleted:
                    rules.pop(update.rule.metadata.uid, None)
                else:
                    rules[update.rule.metadata.uid] = update.rule
                # A line of its own for the end too, which the table would just leave out.
                if not live:
                    _print_change(update, options)
                continue
            rules.clear()
            rules.update({item.resource.metadata.uid: item.resource for item in update.items})
            if not table_printed:
                show(current())
                table_printed = True
    return 0


def _print_change(change: RuleChange, options: RulesOptions) -> None:
    row = _row(change.rule, datetime.now(UTC), everywhere=options.everywhere, decisions=True, deleted=change.deleted)
    line = table(("",) * len(row), [row])
    line.show_header = False
    show(line)


def _screen(current: Callable[[], "Table"]) -> "Live":
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    console = Console(markup=False, emoji=False, highlight=False)
    return Live(get_renderable=current, console=console, refresh_per_second=1)


async def print_explanation(client: PersonClient, options: ExplainOptions) -> int:
    """Print the answer; returns exit code 0 when the address is let in, 1 when not."""
    answer = await explain_address(client, options)
    explanation = answer.explanation
    now = datetime.now(UTC)
    say(f"{'yes' if explanation.admitted else 'no'}: {explanation.headline}")
    if explanation.admitted and answer.server is not None:
        say(f"     at {answer.server.endpoint.host}:{answer.server.endpoint.port}")
    for finding in explanation.findings:
        _print_finding(finding, now)
    for obstacle in explanation.obstacles:
        say(f"in the way: {obstacle}")
    for note in explanation.notes:
        say(f"note: {note}")
    if answer.next_step:
        say()
        say(f"to let it in: {answer.next_step}")
    return 0 if explanation.admitted else 1


def _print_finding(finding: Finding, now: datetime) -> None:
    rule = finding.rule
    say()
    covers = "covers it" if finding.covers else "does not cover it"
    say(f"rule {rule.metadata.name}: {covers} ({', '.join(rule.spec.cidrs)}); {finding.phase}, {countdown(rule, now)}")
    _print_field("until", rfc3339(deadline_of(rule)))
    _print_field("requested by", f"{rule.spec.requested_by}: {short(rule.spec.reason, 200)}")
    if decision := _decision(rule):
        _print_field("decision", decision)
    for layer in finding.layers:
        _print_field(layer.name, f"{'yes' if layer.passes else 'NO'}: {layer.message}")
    if finding.layers:
        _print_field("sessions", f"{sessions_open(rule)} open under this rule")
    elif finding.covers:
        _print_field("why", finding.message)


def _print_field(name: str, text: str) -> None:
    say(f"  {name:16}{text}")
