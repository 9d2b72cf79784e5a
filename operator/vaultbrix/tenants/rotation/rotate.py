"""Makes a tenant's role take the password of its Secret, and another one where that is due.

The Secret is what counts: it is written while the role's change waits for nothing but its commit, so an operator that
dies in between leaves a Secret whose password the role has once an operator runs again, and until then the role goes on
with the one before.
"""

import secrets
from datetime import UTC, datetime

import psycopg

from vaultbrix.api.tenant import Credentials, Tenant
from vaultbrix.kube.client import Kube
from vaultbrix.postgres import roles, scram
from vaultbrix.tenants import role
from vaultbrix.tenants.decisions import TenantRole
from vaultbrix.tenants.placement import Placement
from vaultbrix.tenants.rotation.decisions import EndedSessions, due, rotated
from vaultbrix.tenants.rotation.held import Held, new_password, write
from vaultbrix.tenants.rotation.sessions import end_sessions, time_of


async def rotate(
    kube: Kube,
    connection: psycopg.AsyncConnection,
    tenant: Tenant,
    desired: TenantRole,
    placement: Placement,
    held: Held,
) -> tuple[Held, roles.Outcome]:
    """Provision the role; returns what its Secret then holds, and what was done to the role. Raises Expected."""
    credentials, now = tenant.spec.credentials or Credentials(), datetime.now(UTC)
    salt, cause = secrets.token_bytes(scram.SALT_BYTES), due(credentials, held.note, now)
    if cause is None:
        outcome = await role.provision(connection, desired, placement, held.password, salt)
    else:
        password, note = new_password(), rotated(credentials, held.note, cause, now)

        async def write_secret() -> None:
            nonlocal held
            held = await write(kube, held, password, note)

        outcome = await role.provision(connection, desired, placement, password, salt, before_commit=write_secret)
    return await _end_sessions(kube, connection, desired, held), outcome


async def _end_sessions(kube: Kube, connection: psycopg.AsyncConnection, desired: TenantRole, held: Held) -> Held:
    ended = held.note.ended_sessions
    if ended is None:
        return held
    logins = [desired.role]
    if ended.before is not None:
        # Who was logging in when the password ended may have come in since.
        await end_sessions(connection, logins, ended.before)
        return held
    before, watched_until = await time_of(connection)
    await end_sessions(connection, logins, before)
    # Noted afterwards: an operator that dies before ends those of a later moment.
    note = held.note.model_copy(update={"ended_sessions": EndedSessions(before=before, watched_until=watched_until)})
    return await write(kube, held, held.password, note)
