"""What an approver may ask for about an AccessRule, as data: see it, then decide on exactly what was seen.

Two steps, so that a person sees what the rule gives in between: ``show_rule_for_decision`` and ``decide_on_rule``. Like
``actions``, nothing here prints.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from vaultbrix.access.approval import SHORT, decision_refused
from vaultbrix.access.terms import terms_sha256
from vaultbrix.api.accessrule import AccessDecision, AccessRule
from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import DDLApproval, Verdict
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.review import check_options, check_prefix
from vaultbrix.ddl.submission import check_person
from vaultbrix.kube.client import Conflict, NotFound
from vaultbrix.kube.person import Missing, PersonClient
from vaultbrix.runtime.errors import Blocked
from vaultbrix.runtime.usage import Misused, Refused
from vaultbrix.runtime.visible import visible

# What the operator needs to look at a rule that was just created or edited, and some more.
LOOKED_AT_SECONDS = 15.0
# Agents and operator write the status meanwhile, which makes a decision on what was read a conflict.
WRITE_ATTEMPTS = 10

_KINDS: dict[str, type[AccessRule] | type[DDLApproval]] = {
    name: kind
    for kind in (AccessRule, DDLApproval)
    for name in (kind.crd.singular, kind.crd.plural, *kind.crd.short_names)
}


@dataclass(frozen=True)
class Decidable:
    """Something that a person can decide on, by kind and name."""

    kind: type[AccessRule] | type[DDLApproval]
    name: str


async def find_decidable(client: PersonClient, reference: str) -> Decidable:
    """What ``NAME``, ``accessrule/NAME`` or ``ddlapproval/NAME`` stands for in the person's namespace.

    Raises Misused for a kind that is none of these and for a name that both kinds have, Missing for one that neither
    has. A kind that the person may not read is passed over where the other one has the name.
    """
    kind_name, slash, name = reference.rpartition("/")
    if slash:
        kind = _KINDS.get(kind_name.lower())
        if kind is None:
            raise Misused(f"{reference}: write accessrule/NAME or ddlapproval/NAME")
        return Decidable(kind, name)
    holders: list[type[AccessRule] | type[DDLApproval]] = []
    hidden: Blocked | None = None
    for kind in (AccessRule, DDLApproval):
        try:
            await client.fetch(kind, name)
        except Missing:
            continue
        except Blocked as error:
            if error.reason is not Reason.FORBIDDEN:
                raise
            hidden = error
            continue
        holders.append(kind)
    if len(holders) == 2:
        raise Misused(
            f"{name}: namespace {client.namespace} has an AccessRule and a DDLApproval of that name; write "
            f"accessrule/{name} or ddlapproval/{name}"
        )
    if holders:
        return Decidable(holders[0], name)
    if hidden is not None:
        raise hidden
    raise Missing(
        f"namespace {client.namespace} has neither an AccessRule nor a DDLApproval {name}; what waits is told by "
        "vaultbrix rules --pending and vaultbrix ddl list --pending"
    )


@dataclass(frozen=True, kw_only=True)
class RuleDecisionOptions:
    """A person's decision on the AccessRule of that name.

    ``sha256`` names what the rule gives by the beginning of its hash; empty, the person has to be asked for it.
    ``message`` is for the record.
    """

    name: str
    verdict: Verdict
    message: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class ShownRule:
    """A rule as a person was shown it, and the decision ``by`` them that is about to be written.

    ``tenant`` is None where it does not exist or the person may not read it.
    """

    rule: AccessRule
    tenant: Tenant | None
    options: RuleDecisionOptions
    by: str

    def check(self) -> str:
        """The sha256 that is decided on.

        Raises Refused when the decision would not count, or when the options name another one.
        """
        sha256 = _check(self.rule, self.by)
        if self.options.sha256:
            prefix = check_prefix(self.options.sha256)
            if not sha256.startswith(prefix):
                raise Refused(
                    f"--sha256 {prefix}: what {self.options.name} gives has sha256 {sha256}, so it is not what you "
                    "mean; nothing was decided"
                )
        return sha256

    def check_typed(self, typed: str) -> None:
        """Raises Refused unless a person who was asked has typed how the sha256 begins."""
        if typed.strip().lower() != self.check()[:SHORT]:
            raise Refused("that is not how its sha256 begins; nothing was decided")


def _check(rule: AccessRule, by: str) -> str:
    objection = decision_refused(rule, by, datetime.now(UTC))
    if objection is not None:
        raise Refused(visible(f"{rule.metadata.name} {objection}"))
    return terms_sha256(rule)


async def show_rule_for_decision(client: PersonClient, options: RuleDecisionOptions) -> ShownRule:
    """Check the options, and read the rule once the operator has looked at its last change, or after a while without.

    Whether the decision may be written is for ``check`` of what is returned, after the person has seen it.
    """
    check_options(options.verdict, options.message, options.sha256)
    by = await client.kube.whoami()
    check_person(by)
    rule = await client.find(AccessRule, options.name)
    state, _ = await client.wait_until(rule, _looked_at, LOOKED_AT_SECONDS)
    return ShownRule(state.resource, await _tenant_of(client, state.resource), options, by)


def _looked_at(rule: AccessRule) -> bool:
    """Whether the status is of what the rule gives, or nothing is left to decide anyway."""
    return rule.status.sha256 == terms_sha256(rule) or rule.spec.revoked or rule.deleting


async def _tenant_of(client: PersonClient, rule: AccessRule) -> Tenant | None:
    try:
        return await client.find(Tenant, rule.spec.tenant_ref.name)
    except Missing:
        return None
    except Blocked as error:
        if error.reason is not Reason.FORBIDDEN:
            raise
        return None


async def decide_on_rule(client: PersonClient, shown: ShownRule) -> AccessRule:
    """Write the decision on exactly what was shown.

    Raises Refused when it would not count, or when the rule has changed since in anything that the decision rests on;
    Missing when it was deleted.
    """
    options, rule = shown.options, shown.rule
    decision = AccessDecision(verdict=options.verdict, by=shown.by, sha256=shown.check(), message=options.message)
    basis = _seen(rule)
    for _ in range(WRITE_ATTEMPTS):
        version = {"resourceVersion": rule.metadata.resource_version}
        try:
            return await client.merge(rule, {"metadata": version, "spec": {"decision": decision.dump()}})
        except (Conflict, NotFound):
            rule = (await client.reread(rule)).resource
        _check(rule, shown.by)
        if _seen(rule) != basis:
            raise Refused(
                f"{options.name} is not as it was shown any more; nothing was decided; look again: "
                f"vaultbrix approve accessrule/{options.name} -n {rule.metadata.namespace}"
            )
    raise Refused(f"{options.name} changes all the time; try again")


def _seen(rule: AccessRule) -> tuple[object, ...]:
    """All of it that a decision rests on: the same before and after means that what was shown is what is decided."""
    status = rule.status
    return (rule.metadata.uid, rule.deleting, rule.spec, status.sha256, status.phase, status.closed_at)
