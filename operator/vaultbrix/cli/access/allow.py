"""``vaultbrix allow``."""

from dataclasses import dataclass
from datetime import UTC, datetime
from shlex import quote

from vaultbrix.access import request
from vaultbrix.access.countdown import countdown
from vaultbrix.access.decisions import deadline_of, rule_login, start_of
from vaultbrix.access.progress import Progress, lacking, opening
from vaultbrix.api.accessrule import AccessRule, RuleLogin
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.cli.client import Failed, User
from vaultbrix.cli.output import Format, document, manifest, say, warn
from vaultbrix.kube.client import Conflict, Object, resource_type
from vaultbrix.runtime import usage

ME = "me"


@dataclass(frozen=True)
class Wanted:
    """The command line, as it was written."""

    tenant: str
    cidrs: tuple[str, ...]
    lasting: str | None
    until: str | None
    since: str | None
    reason: str
    requested_by: str
    per_rule: bool
    name: str
    wait: bool
    timeout: str
    form: Format
    dry_run: bool


async def allow(user: User, wanted: Wanted) -> int:
    """Create the rule, wait, and say how to connect. 1 when it is not in force in time."""
    now = datetime.now(UTC)
    life = request.parse_life(wanted.lasting, wanted.until, wanted.since, now)
    patience = usage.parse_span("--timeout", wanted.timeout).total_seconds()
    # All that is wrong by itself is told before anybody is asked.
    request.parse_cidrs([text for text in wanted.cidrs if text != ME] or ["192.0.2.1"])
    usage.check_texts(wanted.reason, wanted.requested_by or ME)
    if wanted.name:
        usage.check_name(wanted.name)
    tenant = await user.find(Tenant, wanted.tenant)
    cidrs = [str(await user.own_address("--cidr", tenant)) if text == ME else text for text in wanted.cidrs]
    requested_by = wanted.requested_by or await user.kube.whoami()
    usage.check_texts(wanted.reason, requested_by)
    body = request.access_rule(
        user.namespace,
        wanted.name,
        wanted.tenant,
        cidrs=request.parse_cidrs(cidrs),
        life=life,
        reason=wanted.reason,
        requested_by=requested_by,
        login=RuleLogin.PER_RULE if wanted.per_rule else RuleLogin.TENANT,
    )
    server, _ = await user.server_of(tenant)
    if server is not None:
        request.check_limits(body, await _rules_of(user, tenant), tenant, server, now)
    raw = await _create(user, body, dry_run=wanted.dry_run)
    rule = AccessRule.parse(raw)
    if not wanted.wait:
        return _created(rule, raw, wanted)
    rule, raw, settled = await user.follow(
        rule, lambda r: opening(r, datetime.now(UTC)) is not Progress.WAITING, patience
    )
    if wanted.form is not Format.TABLE:
        document(manifest(raw), wanted.form)
    return _settled(rule, tenant, server, wanted, timed_out=not settled)


async def _rules_of(user: User, tenant: Tenant) -> list[AccessRule]:
    """As far as the person may see them; the operator sees all."""
    found = await user.permitted(AccessRule, user.namespace)
    return [r for r in found if r.spec.tenant_ref.name == tenant.metadata.name]


async def _create(user: User, body: Object, *, dry_run: bool) -> Object:
    try:
        return await user.kube.create(resource_type(AccessRule), user.namespace, body, dry_run=dry_run)
    except Conflict:
        name = body["metadata"].get("name", "")
        raise Failed(
            f"--name {name}: namespace {user.namespace} has an AccessRule of that name, and an ended one never opens "
            "again; give another name, or none"
        ) from None


def _created(rule: AccessRule, raw: Object, wanted: Wanted) -> int:
    if wanted.form is not Format.TABLE:
        document(manifest(raw), wanted.form)
    elif wanted.dry_run:
        say(f"AccessRule {_named(rule)} would be created, for {', '.join(rule.spec.cidrs)} {_lasting(rule)}")
    else:
        say(f"AccessRule {_named(rule)} is created, for {', '.join(rule.spec.cidrs)} {_lasting(rule)}")
    return 0


def _named(rule: AccessRule) -> str:
    return f"{rule.metadata.name} in namespace {rule.metadata.namespace}"


def _lasting(rule: AccessRule) -> str:
    since = f"from {rfc3339(start_of(rule))} " if rule.spec.starts_at else ""
    return f"{since}until {rfc3339(deadline_of(rule))}"


def _settled(
    rule: AccessRule, tenant: Tenant, server: PostgresServer | None, wanted: Wanted, *, timed_out: bool
) -> int:
    now = datetime.now(UTC)
    progress = opening(rule, now)
    if progress in (Progress.WAITING, Progress.NEVER):
        _not_in_force(rule, wanted, timed_out=timed_out)
        return 1
    if wanted.form is Format.TABLE:
        what = "is open" if progress is Progress.READY else f"is accepted and {countdown(rule, now)}"
        say(f"AccessRule {_named(rule)} {what}: {', '.join(rule.spec.cidrs)} {_lasting(rule)}")
        _how_to_connect(rule, tenant, server)
    return 0


def _not_in_force(rule: AccessRule, wanted: Wanted, *, timed_out: bool) -> None:
    after = f" after {wanted.timeout}" if timed_out else ""
    warn(f"error: AccessRule {_named(rule)} is created but not in force{after}:")
    for condition in lacking(rule):
        warn(f"  {condition.type} is {condition.status}: {condition.reason}: {condition.message}")
    if not rule.status.conditions:
        warn("  nothing has looked at it yet; is the operator running?")
    name, namespace = rule.metadata.name, rule.metadata.namespace
    warn(f"it may still open; to take it back: vaultbrix revoke {name} -n {namespace}")


def _how_to_connect(rule: AccessRule, tenant: Tenant, server: PostgresServer | None) -> None:
    role, secret = tenant.role, tenant.status.secret_name or tenant.secret_name
    if rule.spec.login is RuleLogin.PER_RULE:
        role = rule_login(tenant.role, rule.metadata.uid)
        secret = rule.status.secret_name or rule.secret_name
    namespace = rule.metadata.namespace
    say()
    if server is not None:
        say(f"  host    {server.endpoint.host}")
        say(f"  port    {server.endpoint.port}")
    say(f"  role    {role}")
    say(f"  secret  {secret} (keys host, port, dbname, username, password, uri)")
    say()
    get = f"kubectl -n {quote(namespace)} get secret {quote(secret)} -o jsonpath='{{.data.uri}}'"
    say(f'  psql "$({get} | base64 -d)"')
    say()
    say(f"It ends by itself. Earlier: vaultbrix revoke {rule.metadata.name} -n {namespace}")
