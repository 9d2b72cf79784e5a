"""``vaultbrix rules`` and ``vaultbrix explain``."""

import asyncio
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vaultbrix.access import explain as domain
from vaultbrix.access.countdown import countdown, ended_at
from vaultbrix.access.decisions import deadline_of
from vaultbrix.access.progress import sessions_open
from vaultbrix.access.request import parse_ip
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import ConditionType, find_condition
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.tenant import Tenant
from vaultbrix.cli.client import User
from vaultbrix.cli.output import Format, document, manifest, say, short, show, table
from vaultbrix.kube.client import Gone, Object, resource_type
from vaultbrix.runtime.usage import Misused

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

# After a watch that ended, so that an API server in trouble is not asked without pause.
RELIST_SECONDS = 1.0

HEADERS = ("NAME", "TENANT", "CIDRS", "PHASE", "TIME", "SESSIONS", "READY", "REQUESTED BY", "REASON")


@dataclass(frozen=True)
class Listing:
    """Options of ``rules``."""

    everywhere: bool
    tenant: str
    ended: bool
    watch: bool
    form: Format

    def shows(self, rule: AccessRule, now: datetime) -> bool:
        """Whether the rule is asked for."""
        return self.tenant in ("", rule.spec.tenant_ref.name) and (self.ended or ended_at(rule, now) is None)


async def rules(user: User, wanted: Listing) -> int:
    """Print the rules."""
    if wanted.watch and wanted.form is not Format.TABLE:
        raise Misused(
            f"--watch goes with -o table only; for objects as they change: kubectl get ar -w -o {wanted.form}"
        )
    namespace = "" if wanted.everywhere else user.namespace
    if wanted.watch:
        return await _watch(user, namespace, wanted)
    answer = await user.raw(AccessRule, namespace)
    now = datetime.now(UTC)
    found = [r for r in user.read(AccessRule, answer["items"]) if wanted.shows(r, now)]
    if wanted.form is not Format.TABLE:
        uids = {r.metadata.uid for r in found}
        document(_list(answer["items"], uids), wanted.form)
    elif found:
        show(_table(found, wanted, now))
    else:
        where = "any namespace" if wanted.everywhere else f"namespace {namespace}"
        of = f" of Tenant {wanted.tenant}" if wanted.tenant else ""
        say(f"no rule{of} in {where}" if wanted.ended else f"no rule{of} is open in {where}; --all shows ended ones")
    return 0


def _list(items: Iterable[Object], uids: set[str]) -> Object:
    kind = resource_type(AccessRule)
    typed = {"apiVersion": kind.api_version, "kind": kind.kind}
    kept = [{**typed, **manifest(item)} for item in items if item["metadata"]["uid"] in uids]
    return {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": kept}


def _table(found: Iterable[AccessRule], wanted: Listing, now: datetime) -> "Table":
    ordered = sorted(found, key=lambda r: (r.metadata.namespace, ended_at(r, now) is not None, deadline_of(r)))
    headers = ("NAMESPACE", *HEADERS) if wanted.everywhere else HEADERS
    return table(headers, [_row(rule, now, everywhere=wanted.everywhere) for rule in ordered])


def _row(rule: AccessRule, now: datetime, *, everywhere: bool, deleted: bool = False) -> list[object]:
    ready = find_condition(rule.status.conditions, ConditionType.READY)
    return [
        *([rule.metadata.namespace] if everywhere else []),
        rule.metadata.name,
        rule.spec.tenant_ref.name,
        ", ".join(rule.spec.cidrs),
        "Deleted" if deleted else rule.status.phase or "",
        "" if deleted else countdown(rule, now),
        sessions_open(rule),
        "" if deleted else "Waiting" if ready is None else "True" if ready.status == "True" else ready.reason,
        rule.spec.requested_by,
        short(rule.spec.reason),
    ]


async def _watch(user: User, namespace: str, wanted: Listing) -> int:
    """For ever: on a terminal the table as it is now, elsewhere a table, then a line for each change."""
    held: dict[str, AccessRule] = {}

    def current() -> "Table":
        now = datetime.now(UTC)
        return _table([r for r in list(held.values()) if wanted.shows(r, now)], wanted, now)

    live = sys.stdout.isatty()
    with _screen(current) if live else nullcontext():
        first = True
        while True:
            answer = await user.raw(AccessRule, namespace)
            held.clear()
            held.update({r.metadata.uid: r for r in user.read(AccessRule, answer["items"])})
            if first and not live:
                show(current())
            first = False
            try:
                await _follow(user, namespace, answer["metadata"]["resourceVersion"], held, wanted, live=live)
            except Gone:
                continue
            await asyncio.sleep(RELIST_SECONDS)


async def _follow(
    user: User, namespace: str, version: str, held: dict[str, AccessRule], wanted: Listing, *, live: bool
) -> None:
    async for event in user.kube.watch(resource_type(AccessRule), version, namespace):
        if event["type"] == "BOOKMARK":
            continue
        for rule in user.read(AccessRule, [event["object"]]):
            deleted = event["type"] == "DELETED"
            if deleted:
                held.pop(rule.metadata.uid, None)
            else:
                held[rule.metadata.uid] = rule
            # A line of its own for the end too, which the table would just leave out.
            if not live and wanted.tenant in ("", rule.spec.tenant_ref.name):
                row = _row(rule, datetime.now(UTC), everywhere=wanted.everywhere, deleted=deleted)
                line = table(("",) * len(row), [row])
                line.show_header = False
                show(line)


def _screen(current: Callable[[], "Table"]) -> "Live":
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    console = Console(markup=False, emoji=False, highlight=False)
    return Live(get_renderable=current, console=console, refresh_per_second=1)


async def explain(user: User, ip: str, name: str) -> int:
    """Print the answer; 0 when the address is let in, 1 when not."""
    address = None if ip == "me" else parse_ip(ip)
    tenant = await user.find(Tenant, name)
    if address is None:
        address = await user.own_address("--ip", tenant)
    server, hidden = await user.server_of(tenant)
    found = await user.objects(AccessRule, user.namespace)
    approvals = tuple(await user.permitted(DDLApproval, user.namespace))
    view = domain.View(user.namespace, name, tenant, server, tuple(found), hidden, approvals)
    now = datetime.now(UTC)
    told = domain.explain(address, view, now)
    say(f"{'yes' if told.admitted else 'no'}: {told.headline}")
    if told.admitted and server is not None:
        say(f"     at {server.endpoint.host}:{server.endpoint.port}")
    for finding in told.findings:
        _tell(finding, now)
    for text in told.obstacles:
        say(f"in the way: {text}")
    for text in told.notes:
        say(f"note: {text}")
    step = domain.next_step(told, address, view)
    if step:
        say()
        say(f"to let it in: {step}")
    return 0 if told.admitted else 1


def _tell(finding: domain.Finding, now: datetime) -> None:
    rule = finding.rule
    say()
    covers = "covers it" if finding.covers else "does not cover it"
    say(f"rule {rule.metadata.name}: {covers} ({', '.join(rule.spec.cidrs)}); {finding.phase}, {countdown(rule, now)}")
    _field("until", rfc3339(deadline_of(rule)))
    _field("requested by", f"{rule.spec.requested_by}: {short(rule.spec.reason, 200)}")
    for layer in finding.layers:
        _field(layer.name, f"{'yes' if layer.passes else 'NO'}: {layer.message}")
    if finding.layers:
        _field("sessions", f"{sessions_open(rule)} open under this rule")
    elif finding.covers:
        _field("why", finding.message)


def _field(name: str, text: str) -> None:
    say(f"  {name:16}{text}")
