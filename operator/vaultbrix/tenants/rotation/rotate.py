"""Makes a tenant's logins take what its Secret says, and has it say something else where that is due.

Without ``keepPrevious`` the login that the Secret names gets another password. The Secret is written while that change
waits for nothing but its commit: an operator that dies in between leaves a Secret whose password the login has once an
operator runs again, and until then the login takes the one before.

With it the other of the tenant's two logins gets the password first, and then the Secret names that one, so that at any
moment both what the Secret says and what it said before are taken. PostgreSQL itself ends the password of before.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from vaultbrix.api.login_names import second_login
from vaultbrix.api.tenant import Credentials, Tenant
from vaultbrix.kube.client import Kube
from vaultbrix.postgres import roles, scram
from vaultbrix.postgres.roles import NO_VERIFIER, KeptVerifier, Outcome
from vaultbrix.tenants import role, rule_logins
from vaultbrix.tenants.decisions import TenantRole
from vaultbrix.tenants.placement import Placement
from vaultbrix.tenants.rotation import sessions
from vaultbrix.tenants.rotation.decisions import (
    EndedSessions,
    Note,
    due,
    keeping,
    keeps_previous,
    previous_of,
    rotated,
)
from vaultbrix.tenants.rotation.held import Held, new_password, write
from vaultbrix.tenants.rule_logins import LoginClaim, LoginTerms

_REMEDY = "drop it, or set spec.credentials.keepPrevious to 0s"


@dataclass(frozen=True)
class Settled:
    """What the Secret holds in the end, and what was done to each login of the tenant's."""

    held: Held
    outcomes: dict[str, Outcome]


@dataclass
class Logins:
    """A tenant's role and its second login, and what was done to them so far."""

    connection: psycopg.AsyncConnection
    tenant: Tenant
    desired: TenantRole
    placement: Placement
    outcomes: dict[str, Outcome]

    @property
    def second(self) -> str:
        """The name of the second login, whether there is one or not."""
        return second_login(self.desired.role)

    def other(self, login: str) -> str:
        """The one of the two that this one is not."""
        return self.second if login == self.desired.role else self.desired.role

    async def provision(
        self,
        login: str,
        password: str | KeptVerifier,
        valid_until: datetime | None = None,
        before_commit: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Make one of the two as specified, with that password. Raises Expected, changing nothing."""
        salt = secrets.token_bytes(scram.SALT_BYTES)
        if login == self.desired.role:
            outcome = await role.provision(
                self.connection,
                self.desired,
                self.placement,
                password,
                salt,
                valid_until=valid_until,
                before_commit=before_commit,
            )
        else:
            terms = LoginTerms(login, self.tenant.metadata.uid, self.desired, valid_until, _REMEDY)
            outcome = await rule_logins.provision(self.connection, terms, password, salt, before_commit=before_commit)
        earlier = self.outcomes.get(login)
        changed = (*(earlier.changed if earlier else ()), *outcome.changed)
        self.outcomes[login] = Outcome(outcome.fingerprint, changed)

    async def provision_beside(self, held: Held, now: datetime) -> None:
        """Have the login that the Secret does not name as its note says: good for a while, or ended."""
        login = self.other(held.username)
        previous = previous_of(self.tenant.spec.credentials or Credentials(), held.note, now)
        if previous is not None and previous.login == login:
            await self.provision(login, KeptVerifier(previous.verifier), previous.until)
        elif login == self.desired.role:
            await self.provision(login, NO_VERIFIER)
        # One that was never reported on cannot have a second login yet.
        elif self.tenant.status.conditions and await rule_logins.exists(
            self.connection, login, self.tenant.metadata.uid
        ):
            await self.provision(login, NO_VERIFIER)
            # Sessions go on; the last of them gone, a later look finds none.
            claim = LoginClaim(login, self.desired.role, self.tenant.metadata.uid)
            if not await rule_logins.has_sessions(self.connection, login) and await rule_logins.try_drop(
                self.connection, claim
            ):
                del self.outcomes[login]


async def settle(
    kube: Kube,
    connection: psycopg.AsyncConnection,
    tenant: Tenant,
    desired: TenantRole,
    placement: Placement,
    held: Held,
) -> Settled:
    """Provision the tenant's logins, with another password where that is due. Raises Expected."""
    credentials, now = tenant.spec.credentials or Credentials(), datetime.now(UTC)
    logins = Logins(connection, tenant, desired, placement, {})
    if held.username != desired.role:
        # What the second login is a member of.
        await logins.provision_beside(held, now)
    cause = due(credentials, held.note, now)
    if cause is None:
        await logins.provision(held.username, held.password)
    elif keeps_previous(credentials, cause):
        await logins.provision(held.username, held.password)
        held = await _to_other_login(kube, logins, held, credentials, rotated(credentials, held.note, cause, now))
    else:
        held = await _in_place(kube, logins, held, rotated(credentials, held.note, cause, now))
    if cause is not None or held.username == desired.role:
        await logins.provision_beside(held, now)
    return Settled(await _end_sessions(kube, logins, held), logins.outcomes)


async def _in_place(kube: Kube, logins: Logins, held: Held, note: Note) -> Held:
    password = new_password()

    async def write_secret() -> None:
        nonlocal held
        held = await write(kube, held, held.username, password, note)

    await logins.provision(held.username, password, before_commit=write_secret)
    return held


async def _to_other_login(kube: Kube, logins: Logins, held: Held, credentials: Credentials, note: Note) -> Held:
    seen = await roles.read(logins.connection, held.username)
    verifier = roles.sha256_of((seen.verifier if seen else None) or "")
    login, password = logins.other(held.username), new_password()
    await logins.provision(login, password)
    return await write(kube, held, login, password, keeping(note, credentials, held.username, verifier))


async def _end_sessions(kube: Kube, logins: Logins, held: Held) -> Held:
    ended = held.note.ended_sessions
    if ended is None:
        return held
    names = [logins.desired.role, logins.second]
    if ended.before is not None:
        # Who was logging in when the password ended may have come in since.
        await sessions.end_sessions(logins.connection, names, ended.before)
        return held
    before, watched_until = await sessions.time_of(logins.connection)
    await sessions.end_sessions(logins.connection, names, before)
    # Noted afterwards: an operator that dies before ends those of a later moment.
    note = held.note.model_copy(update={"ended_sessions": EndedSessions(before=before, watched_until=watched_until)})
    return await write(kube, held, held.username, held.password, note)
