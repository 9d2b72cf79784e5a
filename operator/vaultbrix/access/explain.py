"""Why an address is let in as a tenant, or why not: the answer of ``vaultbrix explain``. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network

from vaultbrix.access.approval import unguarded
from vaultbrix.access.countdown import ended_at
from vaultbrix.access.decisions import decide_all, rule_login
from vaultbrix.access.terms import deadline_of
from vaultbrix.api.accessrule import AccessPhase, AccessRule, RuleLogin
from vaultbrix.api.conditions import Condition, ConditionType, find_condition
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.review import by_urgency, waiting
from vaultbrix.runtime.addresses import Address
from vaultbrix.runtime.counted import counted
from vaultbrix.runtime.durations import span

MOST_ENDED = 3
MOST_NEAR = 3


@dataclass(frozen=True)
class View:
    """The objects that the answer rests on, as far as the person who asks may read them.

    ``name`` is the tenant's, ``namespace`` that of tenant, ``rules`` and ``approvals``. ``server`` is None where it
    does not exist, and where ``server_hidden`` says that the person may not read it.
    """

    namespace: str
    name: str
    tenant: Tenant | None
    server: PostgresServer | None
    rules: tuple[AccessRule, ...] = ()
    server_hidden: bool = False
    approvals: tuple[DDLApproval, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One place that an open rule needs to be in force at; ``message`` says what it reports."""

    name: str
    passes: bool
    message: str


@dataclass(frozen=True)
class Finding:
    """One rule of the tenant and what it does for the address.

    ``covers``: one of its networks holds the address. ``message`` says why the rule is in its ``phase``. ``layers`` are
    there only where the rule is open and covers the address.
    """

    rule: AccessRule
    phase: AccessPhase
    covers: bool
    message: str
    layers: tuple[Layer, ...] = ()

    @property
    def admits(self) -> bool:
        """Whether it lets the address in."""
        return bool(self.layers) and all(layer.passes for layer in self.layers)


@dataclass(frozen=True)
class Explanation:
    """The answer. ``findings`` begin with the rules that matter most; ``roles`` are those the address may log in as.

    ``obstacles`` stand in the way whatever the rules say; ``notes`` do not.
    """

    admitted: bool
    headline: str
    findings: tuple[Finding, ...] = ()
    roles: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def explain(address: Address, view: View, now: datetime) -> Explanation:
    """Whether, and through which rule, the address is let in as the tenant."""
    tenant = view.tenant
    if tenant is None:
        return Explanation(False, f"Tenant {view.name} does not exist in namespace {view.namespace}")
    mine = [r for r in view.rules if r.spec.tenant_ref.name == view.name]
    verdicts = _verdicts(mine, view, now)
    findings = sorted(
        (_finding(rule, verdicts[rule.metadata.uid], address, now) for rule in mine),
        key=lambda f: _rank(f, address, now),
    )
    obstacles, notes = _obstacles(view), _notes(address, view, now)
    admitting = [f for f in findings if f.admits]
    if admitting and not obstacles:
        roles = tuple(sorted({_role(f.rule, tenant) for f in admitting}))
        headline = f"{address} may log in as {' and as '.join(roles)}"
        return Explanation(True, headline, tuple(admitting), roles, (), notes)
    nearest = _nearest(findings, now)
    headline = f"{address} may not log in as {tenant.role}: {_cause(nearest, address, obstacles, now)}"
    return Explanation(False, headline, nearest, (), obstacles, notes)


def _verdicts(rules: Iterable[AccessRule], view: View, now: datetime) -> Mapping[str, tuple[AccessPhase, str]]:
    """uid → phase and why: decided here, or as the operator last said where the server is hidden from the caller."""
    if view.server_hidden:
        return {r.metadata.uid: _reported(r, now) for r in rules}
    decided = decide_all(rules, view.tenant, view.server, now, unguarded=unguarded(rules))
    return {uid: (verdict.phase, verdict.message) for uid, verdict in decided.items()}


def _reported(rule: AccessRule, now: datetime) -> tuple[AccessPhase, str]:
    ready = find_condition(rule.status.conditions, ConditionType.READY)
    message = ready.message if ready else "the operator has not looked at it yet"
    if ended_at(rule, now) is not None:
        return (AccessPhase.REVOKED if rule.spec.revoked else AccessPhase.EXPIRED), "it has ended"
    return rule.status.phase or AccessPhase.PENDING, message


def _finding(rule: AccessRule, verdict: tuple[AccessPhase, str], address: Address, now: datetime) -> Finding:
    phase, message = verdict
    covers = _covers(rule, address)
    if phase is not AccessPhase.OPEN:
        return Finding(rule, phase, covers, message)
    return Finding(rule, phase, covers, message, _layers(rule) if covers else ())


def _layers(rule: AccessRule) -> tuple[Layer, ...]:
    layers = [_agents(rule, "kernel"), _agents(rule, "pg_hba")]
    policy = find_condition(rule.status.conditions, ConditionType.NETWORK_POLICY_APPLIED)
    layers.append(_from_condition("network policy", policy))
    if rule.spec.login is RuleLogin.PER_RULE:
        layers.append(_from_condition("login", find_condition(rule.status.conditions, ConditionType.LOGIN_READY)))
    return tuple(layers)


def _agents(rule: AccessRule, name: str) -> Layer:
    if not rule.status.agents:
        return Layer(name, False, "no agent has reported on this rule yet")
    generation = rule.metadata.generation
    for agent in rule.status.agents:
        if agent.generation != generation:
            return Layer(
                name, False, f"{agent.name} has not taken over the last change of the rule yet "
                f"(generation {agent.generation} of {generation})",
            )  # fmt: skip
        if not (agent.kernel if name == "kernel" else agent.hba):
            return Layer(name, False, f"{agent.name}: {agent.error or 'does not let it in yet'}")
    return Layer(name, True, ", ".join(agent.name for agent in rule.status.agents))


def _from_condition(name: str, condition: Condition | None) -> Layer:
    if condition is None:
        return Layer(name, False, "the operator has not reported on it yet")
    return Layer(name, condition.status == "True", condition.message or condition.reason)


def _role(rule: AccessRule, tenant: Tenant) -> str:
    return tenant.login if rule.spec.login is RuleLogin.TENANT else rule_login(tenant.role, rule.metadata.uid)


def _obstacles(view: View) -> tuple[str, ...]:
    obstacles = []
    tenant, server = view.tenant, view.server
    if tenant is not None and tenant.spec.suspended:
        obstacles.append(f"Tenant {view.name} is suspended (spec.suspended)")
    elif tenant is not None and (problem := _not_true(tenant.status.conditions, ConditionType.PROVISIONED)):
        obstacles.append(f"Tenant {view.name} is not provisioned: {problem}")
    if tenant is not None and server is None and not view.server_hidden:
        obstacles.append(f"PostgresServer {tenant.spec.server_ref.name} does not exist")
    if server is not None:
        name = server.metadata.name
        if problem := _not_true(server.status.conditions, ConditionType.READY):
            obstacles.append(f"PostgresServer {name} is not ready: {problem}")
        preserved = find_condition(server.status.conditions, ConditionType.SOURCE_ADDRESS_PRESERVED)
        if preserved is not None and preserved.status == "False":
            obstacles.append(f"PostgresServer {name} does not see the addresses of clients: {preserved.message}")
    return tuple(obstacles)


def _notes(address: Address, view: View, now: datetime) -> tuple[str, ...]:
    notes = []
    tenant, server = view.tenant, view.server
    if tenant is not None:
        ready = find_condition(tenant.status.conditions, ConditionType.READY)
        if ready is not None and ready.status != "True":
            notes.append(f"Tenant {view.name} is not ready: {ready.reason}: {ready.message}")
    if view.server_hidden:
        notes.append("you may not read PostgresServers, so this is what operator and agents last said of the rules")
    if server is not None:
        kinds = [ConditionType.AGENT_CONNECTED, ConditionType.CLOCK_IN_SYNC]
        # Elsewhere it keeps nobody out.
        kinds += [ConditionType.AUDIT_FLOWING] if server.spec.audit_required else []
        for type_ in kinds:
            held = find_condition(server.status.conditions, type_)
            if held is not None and held.status == "False":
                notes.append(f"PostgresServer {server.metadata.name}: {type_} is False: {held.message}")
        if any(address in ip_network(cidr) for cidr in server.trusted_networks):
            notes.append(
                f"{address} is trusted by PostgresServer {server.metadata.name}: it reaches PostgreSQL, "
                "but never logs in as a tenant"
            )
    if undecided := by_urgency(a for a in view.approvals if a.spec.tenant_ref.name == view.name and waiting(a)):
        notes.append(
            f"DDL of the tenant that waits for a decision: {undecided[0].metadata.name}"
            f"{f' and {len(undecided) - 1} more' if undecided[1:] else ''} (vaultbrix ddl list -n {view.namespace})"
        )
    for rule in view.rules:
        ended = sum(agent.ended_by_watchdog for agent in rule.status.agents)
        if ended and rule.spec.tenant_ref.name == view.name and _covers(rule, address):
            latest = next(a.watchdog for a in rule.status.agents if a.ended_by_watchdog)
            notes.append(
                f"rule {rule.metadata.name}: {counted(ended, 'session')} ended by the watchdog, the latest for {latest}"
            )
    for rule in view.rules:
        other = rule.spec.tenant_ref.name
        if other == view.name or rule.status.phase is not AccessPhase.OPEN or ended_at(rule, now) is not None:
            continue
        if _covers(rule, address):
            notes.append(f"rule {rule.metadata.name} lets that address in as Tenant {other}")
    return tuple(notes)


def _not_true(conditions: Iterable[Condition], type_: ConditionType) -> str:
    """Why a condition that must be there is not True; empty when it is."""
    condition = find_condition(conditions, type_)
    if condition is None:
        return "the operator has not reported on it yet"
    return "" if condition.status == "True" else f"{condition.reason}: {condition.message}"


_ORDER = (AccessPhase.OPEN, AccessPhase.PENDING, AccessPhase.REJECTED, AccessPhase.EXPIRED, AccessPhase.REVOKED)


def _rank(finding: Finding, address: Address, now: datetime) -> tuple[bool, bool, int, int, float, str]:
    ended = ended_at(finding.rule, now)
    latest = -(ended or deadline_of(finding.rule)).timestamp()
    phase = min(_ORDER.index(finding.phase), _ORDER.index(AccessPhase.EXPIRED))
    return (not finding.admits, not finding.covers, phase, -_shared(finding.rule, address), latest,
            finding.rule.metadata.name)  # fmt: skip


def _networks(rule: AccessRule) -> list[IPv4Network | IPv6Network]:
    """The rule's networks; one that cannot be read covers nothing."""
    networks = []
    for text in rule.spec.cidrs:
        try:
            networks.append(ip_network(text))
        except ValueError:
            continue
    return networks


def _covers(rule: AccessRule, address: Address) -> bool:
    return any(address in network for network in _networks(rule))


def _shared(rule: AccessRule, address: Address) -> int:
    """How many leading bits the nearest network of the rule has in common with the address."""
    same = [network for network in _networks(rule) if network.version == address.version]
    bits = address.max_prefixlen
    return max((bits - (int(n.network_address) ^ int(address)).bit_length() for n in same), default=-1)


def _nearest(findings: list[Finding], now: datetime) -> tuple[Finding, ...]:
    covering = [f for f in findings if f.covers]
    not_ended = [f for f in covering if ended_at(f.rule, now) is None]
    ended = [f for f in covering if ended_at(f.rule, now) is not None]
    near = [f for f in findings if not f.covers and ended_at(f.rule, now) is None]
    return (*not_ended, *ended[:MOST_ENDED], *near[:MOST_NEAR])


def _other_family(rule: AccessRule, address: Address) -> bool:
    """Whether all networks of the rule are of the other one of IPv4 and IPv6."""
    networks = _networks(rule)
    return bool(networks) and all(network.version != address.version for network in networks)


def _uncovered(nearest: tuple[Finding, ...], address: Address) -> str:
    """Why none of the rules covers the address. A name with addresses of both kinds leads clients to the wrong one."""
    if not nearest:
        return "the tenant has no rule that is open"
    cause = "no rule of the tenant covers that address"
    other = next((f for f in nearest if f.phase is AccessPhase.OPEN and _other_family(f.rule, address)), None)
    if other is None:
        return cause
    family, theirs = ("IPv4", "IPv6") if address.version == 4 else ("IPv6", "IPv4")
    return f"{cause}, which is of {family}; rule {other.rule.metadata.name} is open for addresses of {theirs} alone"


def _cause(nearest: tuple[Finding, ...], address: Address, obstacles: tuple[str, ...], now: datetime) -> str:
    first = next((f for f in nearest if f.covers), None)
    if first is None:
        return _uncovered(nearest, address)
    name = first.rule.metadata.name
    if first.admits:
        return f"rule {name} is in force, but {obstacles[0]}"
    if first.phase is AccessPhase.OPEN:
        layer = next(layer for layer in first.layers if not layer.passes)
        return f"rule {name} is open, but not in force yet at layer {layer.name}: {layer.message}"
    ended = ended_at(first.rule, now)
    if ended is not None or first.phase in (AccessPhase.EXPIRED, AccessPhase.REVOKED):
        why = "was revoked" if first.phase is AccessPhase.REVOKED else "ended"
        return f"rule {name} covered that address and {why} {span(now - (ended or now))} ago"
    return f"rule {name} covers that address but is {first.phase}: {first.message}"


def next_step(explanation: Explanation, address: Address, view: View) -> str:
    """The command that would let the address in; empty where a rule is there already or would not help."""
    alive = any(f.covers and f.phase not in (AccessPhase.EXPIRED, AccessPhase.REVOKED) for f in explanation.findings)
    if explanation.admitted or view.tenant is None or alive or explanation.obstacles:
        return ""
    return f"vaultbrix allow {view.name} -n {view.namespace} --cidr {address} --for 1h --reason ..."
