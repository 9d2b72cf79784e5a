"""The rules that a person may see, as data: a list, or changes as they come. As ``actions``, nothing here prints."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from vaultbrix.access.approval import waits_for_decision
from vaultbrix.access.countdown import ended_at
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.kube.client import Gone
from vaultbrix.kube.person import Collection, Fetched, PersonClient
from vaultbrix.kube.resources import resource_type

# After a watch that ended, so that an API server in trouble is not asked without pause.
RELIST_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class RulesOptions:
    """Which rules to show: of one namespace or ``everywhere``, of one ``tenant`` or all, also ``ended`` ones or not.

    ``pending``: only those that wait for somebody's decision.
    """

    everywhere: bool = False
    tenant: str = ""
    ended: bool = False
    pending: bool = False

    def is_of_tenant(self, rule: AccessRule) -> bool:
        """Whether the rule is of the tenant that is asked for, if one is."""
        return self.tenant in ("", rule.spec.tenant_ref.name)

    def includes(self, rule: AccessRule, now: datetime) -> bool:
        """Whether the rule is asked for."""
        if not self.is_of_tenant(rule):
            return False
        return waits_for_decision(rule) if self.pending else self.ended or ended_at(rule, now) is None


async def list_rules(client: PersonClient, options: RulesOptions) -> list[Fetched[AccessRule]]:
    """The rules that are asked for, in the order of the API server."""
    listed = await client.collect(AccessRule, _namespace(client, options))
    now = datetime.now(UTC)
    return [item for item in listed.items if options.includes(item.resource, now)]


@dataclass(frozen=True)
class RuleChange:
    """A rule that has come or has changed, or one that was deleted."""

    rule: AccessRule
    deleted: bool


async def watch_rules(
    client: PersonClient, options: RulesOptions
) -> AsyncIterator[Collection[AccessRule] | RuleChange]:
    """For ever: all rules of the tenant, ended ones too, then each change of one.

    All rules come anew whenever the watch has ended or missed changes.
    """
    namespace = _namespace(client, options)
    while True:
        listed = await client.collect(AccessRule, namespace)
        yield Collection(tuple(item for item in listed.items if options.is_of_tenant(item.resource)), listed.version)
        try:
            async for event in client.kube.watch(resource_type(AccessRule), listed.version, namespace):
                if event["type"] == "BOOKMARK":
                    continue
                for item in client.read(AccessRule, [event["object"]]):
                    if options.is_of_tenant(item.resource):
                        yield RuleChange(item.resource, event["type"] == "DELETED")
        except Gone:
            continue
        await asyncio.sleep(RELIST_SECONDS)


def _namespace(client: PersonClient, options: RulesOptions) -> str:
    return "" if options.everywhere else client.namespace
