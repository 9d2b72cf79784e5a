"""What a person may ask for about direct access, as data: allow, extend, revoke, explain.

Each action takes the person's client and the options as the person wrote them, checks the options before anybody is
asked, and returns what came of it. Raises Misused for an option that is wrong whatever the cluster says, Refused for
what the cluster does not hold or allow, Expected when the cluster cannot be asked. Nothing here prints: the command
line turns the answers into text, and another program may turn them into something else.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from vaultbrix.access import echo
from vaultbrix.access.countdown import ended_at
from vaultbrix.access.decisions import rule_login
from vaultbrix.access.explain import Explanation, View, explain, next_step
from vaultbrix.access.progress import Progress, closed, opening
from vaultbrix.access.request import (
    access_rule,
    check_limits,
    extension,
    follow_up,
    parse_extension,
    parse_ip,
    parse_life,
)
from vaultbrix.api.accessrule import AccessRule, RuleLogin
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.client import Conflict, NotFound
from vaultbrix.kube.person import Fetched, Missing, PersonClient
from vaultbrix.kube.resources import resource_type
from vaultbrix.runtime.addresses import Address
from vaultbrix.runtime.cidrs import parse_cidrs
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.usage import Refused, check_name, check_texts, parse_span

# What a person writes for their own address.
ME = "me"

# Agents and operator write the status of a rule meanwhile, which makes an edit of what was read a conflict.
EDIT_ATTEMPTS = 10

# Told of each state of a rule that is waited for.
Report = Callable[[AccessRule], None]


@dataclass(frozen=True, kw_only=True)
class AllowOptions:
    """Whom to let in from where, how long and why.

    Texts are as the options of ``vaultbrix allow``: ``lasting`` is --for, ``since`` is --from; exactly one of
    ``lasting`` and ``until`` is needed. Empty ``requested_by`` stands for whoever asks, empty ``name`` has one made.
    ``own_address`` is what ``me`` among the ``cidrs`` stands for; None has the server's echo asked how it sees this
    process, which is right only where this process runs on the person's machine.
    """

    tenant: str
    cidrs: tuple[str, ...]
    reason: str
    lasting: str | None = None
    until: str | None = None
    since: str | None = None
    requested_by: str = ""
    login: RuleLogin = RuleLogin.TENANT
    name: str = ""
    wait: bool = True
    timeout: str = "60s"
    dry_run: bool = False
    own_address: Address | None = None


@dataclass(frozen=True)
class Connection:
    """Where to connect under a rule, and the Secret that holds the password. ``server`` None: it may not be read."""

    server: PostgresServer | None
    role: str
    secret: str


@dataclass(frozen=True)
class Allowed:
    """A rule that was created, or with ``dry_run`` would be. ``progress`` is None where it was not waited for."""

    rule: Fetched[AccessRule]
    connection: Connection
    progress: Progress | None

    @property
    def in_force(self) -> bool:
        """Whether the rule was waited for and is open, or accepted until its start."""
        return self.progress in (Progress.READY, Progress.LATER)


async def allow(client: PersonClient, options: AllowOptions, report: Report | None = None) -> Allowed:
    """Create a rule, and wait until it is in force, can never be, or the time for waiting is over."""
    now = datetime.now(UTC)
    life = parse_life(options.lasting, options.until, options.since, now)
    timeout = parse_span("--timeout", options.timeout)
    # With an address of the documentation's (RFC 5737) where only the own one is given, which is not known yet.
    parse_cidrs([text for text in options.cidrs if text != ME] or ["192.0.2.1"], holder="rule")
    check_texts(options.reason, options.requested_by or ME)
    if options.name:
        check_name(options.name)
    tenant = await client.find(Tenant, options.tenant)
    cidrs = [
        str(await _own_address(client, "--cidr", tenant, options.own_address)) if text == ME else text
        for text in options.cidrs
    ]
    requested_by = options.requested_by or await client.kube.whoami()
    check_texts(options.reason, requested_by)
    body = access_rule(
        client.namespace,
        options.name,
        options.tenant,
        cidrs=parse_cidrs(cidrs, holder="rule"),
        life=life,
        reason=options.reason,
        requested_by=requested_by,
        login=options.login,
    )
    server, _ = await client.find_server(tenant)
    if server is not None:
        check_limits(body, await _rules_of(client, tenant), tenant, server, now)
    created = await client.create_request(
        AccessRule,
        body,
        given_person=options.requested_by,
        why_final="and an ended one never opens again",
        dry_run=options.dry_run,
    )
    if not options.wait or options.dry_run:
        return Allowed(created, _connection(created.resource, tenant, server), None)
    rule, progress = await _wait_until_settled(client, created.resource, timeout, report)
    return Allowed(rule, _connection(rule.resource, tenant, server), progress)


async def _rules_of(client: PersonClient, tenant: Tenant) -> list[AccessRule]:
    """The tenant's rules, as far as the person may see them; the operator sees all."""
    rules = await client.find_permitted(AccessRule, client.namespace)
    return [rule for rule in rules if rule.tenant_key == tenant.key]


async def _wait_until_settled(
    client: PersonClient, rule: AccessRule, timeout: timedelta, report: Report | None
) -> tuple[Fetched[AccessRule], Progress]:
    """Wait until a rule's last change is in force or never will be; its Progress is WAITING after ``timeout``."""
    state, _ = await client.wait_until(
        rule, lambda r: opening(r, datetime.now(UTC)) is not Progress.WAITING, timeout.total_seconds(), report
    )
    return state, opening(state.resource, datetime.now(UTC))


def _connection(rule: AccessRule, tenant: Tenant, server: PostgresServer | None) -> Connection:
    if rule.spec.login is RuleLogin.PER_RULE:
        role = rule_login(tenant.role, rule.metadata.uid)
        return Connection(server, role, rule.status.secret_name or rule.secret_name)
    return Connection(server, tenant.login, tenant.status.secret_name or tenant.secret_name)


async def _own_address(client: PersonClient, option: str, tenant: Tenant, known: Address | None) -> Address:
    """What ``me`` stands for in an option: ``known``, or this process's address as the tenant's server sees it."""
    if known is not None:
        return known
    server, hidden = await client.find_server(tenant)
    remedy = f"give the address instead: {option} 203.0.113.7"
    if server is None:
        why = "you may not read" if hidden else "there is no"
        raise Refused(f"{option} me: {why} PostgresServer {tenant.spec.server_ref.name}; {remedy}")
    endpoint = server.endpoint
    if endpoint.echo_port is None:
        raise Refused(
            f"{option} me: PostgresServer {server.metadata.name} does not tell callers their address; {remedy}, "
            "or ask the platform team for spec.publicEndpoint.echoPort"
        )
    try:
        return await echo.ask(endpoint.host, endpoint.echo_port)
    except Expected as error:
        raise Refused(f"{option} me: {error.message}; {remedy}") from None


@dataclass(frozen=True, kw_only=True)
class RevokeOptions:
    """Which rules to end, by name, and how long to wait until all agents have closed them."""

    names: tuple[str, ...]
    wait: bool = True
    timeout: str = "60s"


class RevokeStep(Enum):
    """What came of revoking one rule. ``NOT_CLOSED``: some agent has not reported that nothing of it is left."""

    ENDED_BEFORE = "endedBefore"
    REVOKED = "revoked"
    CLOSED = "closed"
    NOT_CLOSED = "notClosed"


@dataclass(frozen=True)
class Revocation:
    """One step of revoking: the rule as it is then, and the step that it has got to."""

    rule: AccessRule
    step: RevokeStep


async def revoke(client: PersonClient, options: RevokeOptions) -> AsyncIterator[Revocation]:
    """End the rules, all of which must exist, and tell of each: ENDED_BEFORE or REVOKED as soon as it is.

    With ``wait``, CLOSED or NOT_CLOSED follows for each that was revoked, once all are.
    """
    timeout = parse_span("--timeout", options.timeout)
    rules = [await client.find(AccessRule, name) for name in dict.fromkeys(options.names)]
    revoked = []
    for rule in rules:
        if rule.status.closed_at is not None and ended_at(rule, datetime.now(UTC)) is not None:
            yield Revocation(rule, RevokeStep.ENDED_BEFORE)
            continue
        revoked.append(await client.merge(rule, {"spec": {"revoked": True}}))
        yield Revocation(revoked[-1], RevokeStep.REVOKED)
    for rule in revoked if options.wait else ():
        state, done = await client.wait_until(rule, closed, timeout.total_seconds())
        yield Revocation(state.resource, RevokeStep.CLOSED if done else RevokeStep.NOT_CLOSED)


@dataclass(frozen=True, kw_only=True)
class ExtendOptions:
    """A rule, and its new end: so much later than now by ``lasting`` (--for), or the time ``until``."""

    name: str
    lasting: str | None = None
    until: str | None = None
    wait: bool = True
    timeout: str = "60s"


@dataclass(frozen=True)
class Extended:
    """A rule whose end was moved. ``progress`` of the change is None where it was not waited for.

    Where the change would have closed the rule until it is approved anew, ``rule`` is another one, which follows it,
    and ``first`` the one that was to be extended, which goes on as it is.
    """

    rule: AccessRule
    progress: Progress | None
    first: AccessRule | None = None


async def extend(client: PersonClient, options: ExtendOptions, report: Report | None = None) -> Extended:
    """Move the end of a rule that has not ended, and wait until that is in force, or the time for it is over.

    ``report`` is also told of a rule that follows it where one was made.
    """
    timeout = parse_span("--timeout", options.timeout)
    more, end = parse_extension(options.lasting, options.until)
    rule, first = await _write_extension(client, options.name, more, end)
    if not options.wait:
        return Extended(rule, None, first)
    state, progress = await _wait_until_settled(client, rule, timeout, report)
    return Extended(state.resource, progress, first)


async def _write_extension(
    client: PersonClient, name: str, more: timedelta | None, end: datetime | None
) -> tuple[AccessRule, AccessRule | None]:
    """The rule as it is edited; or the one that was made to follow it, and the rule as it goes on."""
    server: PostgresServer | None = None
    for attempt in range(EDIT_ATTEMPTS):
        rule = await client.find(AccessRule, name)
        if attempt == 0:
            server = await _server_of(client, rule)
        now = datetime.now(UTC)
        manifest = follow_up(rule, more=more, until=end, server=server, now=now)
        if manifest is not None:
            created = await client.create(AccessRule, manifest, why_final="", dry_run=False)
            return created.resource, rule
        spec = extension(rule, more=more, until=end, server=server, now=now)
        # Of what was read and no later state: two who extend at once must not both add to the same deadline.
        body = {"metadata": {"resourceVersion": rule.metadata.resource_version}, "spec": spec}
        try:
            return await client.merge(rule, body), None
        except Conflict:
            continue
        except NotFound:
            raise Missing(f"AccessRule {name} was deleted meanwhile; that ends it") from None
    raise Refused(f"AccessRule {name} changes all the time; try again")


async def _server_of(client: PersonClient, rule: AccessRule) -> PostgresServer | None:
    """The server of a rule's tenant; None where either does not exist or the server may not be read."""
    try:
        raw = await client.kube.get(resource_type(Tenant), *rule.tenant_key)
    except NotFound:
        return None
    server, _ = await client.find_server(Tenant.parse(raw))
    return server


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """An address, and the tenant that it is to log in as. ``own_address`` is as in AllowOptions."""

    address: str
    tenant: str
    own_address: Address | None = None


@dataclass(frozen=True)
class Answer:
    """Why an address is let in or not, through which server, and the command that would let it in (or empty)."""

    explanation: Explanation
    server: PostgresServer | None
    next_step: str


async def explain_address(client: PersonClient, options: ExplainOptions) -> Answer:
    """Say whether, and through which rule, an address may log in as a tenant of the person's namespace."""
    address = None if options.address == ME else parse_ip(options.address)
    tenant = await client.find(Tenant, options.tenant)
    if address is None:
        address = await _own_address(client, "--ip", tenant, options.own_address)
    server, hidden = await client.find_server(tenant)
    rules = await client.find_all(AccessRule, client.namespace)
    approvals = await client.find_permitted(DDLApproval, client.namespace)
    view = View(client.namespace, options.tenant, tenant, server, tuple(rules), hidden, tuple(approvals))
    explanation = explain(address, view, datetime.now(UTC))
    return Answer(explanation, server, next_step(explanation, address, view))
