"""What a person may ask for about a tenant's credentials, as data: that its password is replaced.

Raises Misused for an option that is wrong whatever the cluster says, Refused for what the cluster does not hold or
allow, Expected when the cluster cannot be asked. Nothing here prints or knows a password.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from vaultbrix.api.meta import rfc3339
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.client import NotFound
from vaultbrix.kube.person import Missing, PersonClient
from vaultbrix.runtime.usage import parse_span


@dataclass(frozen=True, kw_only=True)
class RotateOptions:
    """Which Tenant's password to replace, and whether nothing of before stays good: ``end_sessions``."""

    tenant: str
    end_sessions: bool = False
    wait: bool = True
    timeout: str = "60s"
    dry_run: bool = False


@dataclass(frozen=True)
class Rotated:
    """A Tenant whose password is to be replaced. ``done`` says that it is; None: that was not waited for."""

    tenant: Tenant
    done: bool | None


async def rotate(client: PersonClient, options: RotateOptions) -> Rotated:
    """Have the password replaced, and wait until PostgreSQL takes the new one, or the time for waiting is over."""
    timeout = parse_span("--timeout", options.timeout)
    tenant = await client.find(Tenant, options.tenant)
    # Of its own even where two people rotate in one second: each wants the password gone that he knows of.
    token = f"{rfc3339(datetime.now(UTC))}-{secrets.token_hex(4)}"
    field = "revokeToken" if options.end_sessions else "rotateToken"
    patch = {"spec": {"credentials": {field: token}}}
    try:
        tenant = await client.merge(tenant, patch, dry_run=options.dry_run)
    except NotFound:
        raise Missing(f"Tenant {options.tenant} was deleted meanwhile") from None
    if not options.wait or options.dry_run:
        return Rotated(tenant, None)

    def is_done(now: Tenant) -> bool:
        done = now.status.credentials
        return done is not None and token == (done.revoke_token if options.end_sessions else done.rotate_token)

    state, done = await client.wait_until(tenant, is_done, timeout.total_seconds())
    return Rotated(state.resource, done)
