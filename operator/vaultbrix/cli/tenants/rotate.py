"""``vaultbrix rotate``: print what came of it, and where the new password is, never the password itself."""

from shlex import quote

from vaultbrix.api.meta import rfc3339
from vaultbrix.api.tenant import Tenant
from vaultbrix.cli.output import say, warn
from vaultbrix.kube.person import PersonClient
from vaultbrix.servers.overview import not_true
from vaultbrix.tenants.actions import RotateOptions, rotate


async def rotate_and_print(client: PersonClient, options: RotateOptions) -> int:
    """Replace the password; returns exit code 1 when PostgreSQL does not take the new one in time, else 0."""
    rotated = await rotate(client, options)
    tenant = rotated.tenant
    if options.dry_run:
        say(f"{options.tenant}: a new password would be asked for")
    elif rotated.done is None:
        say(f"{options.tenant}: a new password is asked for")
    elif not rotated.done:
        warn(f"error: {options.tenant}: a new password is asked for, but not there after {options.timeout}:")
        for condition in not_true(tenant.status.conditions):
            warn(f"  {condition.type} is {condition.status}: {condition.reason}: {condition.message}")
        if not not_true(tenant.status.conditions):
            warn("  nothing has looked at it yet; is the operator running?")
        return 1
    else:
        say(f"{options.tenant}: {_done(tenant, end_sessions=options.end_sessions)}")
        say()
        say(f"  kubectl -n {quote(tenant.metadata.namespace)} get secret {quote(tenant.secret_name)} -o yaml")
    return 0


def _done(tenant: Tenant, *, end_sessions: bool) -> str:
    credentials = tenant.status.credentials
    assert credentials is not None
    new = f"Secret {tenant.secret_name} has a new password for {credentials.username}"
    if end_sessions:
        return f"{new}; no password of before is good, and the sessions that began before have ended"
    until = credentials.previous_until
    return f"{new}; {f'the one before is good until {rfc3339(until)}' if until else 'the one before is not good'}"
