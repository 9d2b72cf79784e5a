"""``vaultbrix status``: prints the status of the installation."""

from vaultbrix.access.countdown import countdown
from vaultbrix.access.progress import readiness
from vaultbrix.api.ddlapproval import Danger
from vaultbrix.cli.output import Format, document, say, short, show, table
from vaultbrix.ddl.review import worst
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.durations import span
from vaultbrix.servers.actions import Status, status
from vaultbrix.servers.overview import Overview, not_true, why_not_ready


async def print_status(client: PersonClient, namespace: str, form: Format) -> int:
    """Print what the person may see, and what they may not; returns exit code 0."""
    current = await status(client, namespace)
    if form is Format.TABLE:
        _print(current)
    else:
        document(current.dump(), form)
    return 0


def _print(current: Status) -> None:
    overview = current.overview
    _print_servers(overview)
    say()
    say(f"Tenants not ready: {len(overview.tenants_not_ready) or 'none'}")
    for tenant in overview.tenants_not_ready:
        why = why_not_ready(tenant.status.conditions)
        say(f"  {tenant.display}: {why['reason']}: {why['message']}")
    say(
        f"Rules: {overview.open_rules} open, {len(overview.ending)} of them ending within the hour, "
        f"{len(overview.rules_not_ready)} not ready"
    )
    for rule in overview.ending:
        say(f"  {rule.display}: {countdown(rule, current.at)}, {rule.spec.requested_by}: {short(rule.spec.reason)}")
    for rule in overview.rules_not_ready:
        why = why_not_ready(rule.status.conditions)
        say(f"  {rule.display}: {why['reason']}: {why['message']}")
    say(f"Approvals that wait for a decision: {len(overview.approvals_waiting) or 'none'}")
    for approval in overview.approvals_waiting:
        age = span(current.at - approval.metadata.creation_timestamp)
        danger = worst(approval.status.statements) or Danger.UNKNOWN
        say(
            f"  {approval.display}: since {age}, loses: {danger.lower()}, {approval.spec.requested_by}: "
            f"{short(approval.spec.reason)}"
        )
    for approval in overview.approvals_waiting[:1]:
        say(f"  to look at the first: vaultbrix ddl show {approval.metadata.name} -n {approval.metadata.namespace}")
    for sentence in current.not_seen:
        say(f"Not seen: {sentence}")


def _print_servers(overview: Overview) -> None:
    if not overview.servers:
        say("Servers: none that you can see")
        return
    rows = [
        (
            server.metadata.name,
            readiness(server.status.conditions),
            server.status.version or "",
            ", ".join(agent.name for agent in server.status.agents) or "none",
            server.status.open_rules,
            server.status.tenants,
        )
        for server in overview.servers
    ]
    show(table(("SERVER", "READY", "VERSION", "AGENTS", "OPEN RULES", "TENANTS"), rows))
    for server in overview.servers:
        for condition in not_true(server.status.conditions):
            say(f"  {server.metadata.name}: {condition.type} is {condition.status}: "
                f"{condition.reason}: {condition.message}")  # fmt: skip
