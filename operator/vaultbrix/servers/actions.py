"""What a person may ask for about the whole installation, as data: its status."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import Reason
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.person import PersonClient, R
from vaultbrix.kube.resources import resource_type
from vaultbrix.runtime.errors import Blocked
from vaultbrix.servers.overview import Overview, dump, overview


@dataclass(frozen=True)
class Status:
    """What needs attention ``at`` that time, and in ``not_seen`` a sentence for each kind the person may not list."""

    overview: Overview
    not_seen: tuple[str, ...]
    at: datetime

    def dump(self) -> dict[str, Any]:
        """As JSON, as ``vaultbrix status -o json`` prints it."""
        return dump(self.overview, self.not_seen)


async def status(client: PersonClient, namespace: str) -> Status:
    """What needs attention in a namespace, or in all that the person may see where it is empty."""
    not_seen: list[str] = []
    servers = await _find_visible(client, PostgresServer, "", not_seen)
    tenants = await _find_visible(client, Tenant, namespace, not_seen)
    rules = await _find_visible(client, AccessRule, namespace, not_seen)
    approvals = await _find_visible(client, DDLApproval, namespace, not_seen)
    now = datetime.now(UTC)
    return Status(overview(servers, tenants, rules, approvals, now), tuple(not_seen), now)


async def _find_visible(client: PersonClient, model: type[R], namespace: str, not_seen: list[str]) -> list[R]:
    """Of all namespaces, or of the person's own where only that is allowed; what is not goes to ``not_seen``."""
    try:
        return await client.find_all(model, namespace)
    except Blocked as error:
        if error.reason is not Reason.FORBIDDEN:
            raise
        not_seen.append(error.message)
    kind = resource_type(model)
    if namespace or not kind.namespaced:
        return []
    own: list[R] = []
    try:
        own = await client.find_all(model, client.namespace)
    except Blocked as error:
        if error.reason is not Reason.FORBIDDEN:
            raise
        not_seen[-1] = error.message
    else:
        not_seen[-1] = f"{kind.plural} of namespaces other than {client.namespace}"
    return own
