"""The Secret of a Tenant as it is held: its password, and the note on when and why that was made."""

import secrets
from dataclasses import dataclass, replace
from datetime import datetime

from vaultbrix.api.login_names import second_login
from vaultbrix.api.tenant import Credentials, CredentialsStatus
from vaultbrix.kube.client import Kube
from vaultbrix.kube.owned_secret import Content, SeenSecret, create_secret, read_secret, write_secret
from vaultbrix.postgres.scram import PASSWORD_BYTES
from vaultbrix.tenants.rotation.decisions import ANNOTATION, Note, first_note, read_note, settled, written
from vaultbrix.tenants.secret import CredentialsSecret, good_password, values


@dataclass(frozen=True)
class Held:
    """What the Secret says, and the note on it."""

    terms: CredentialsSecret
    seen: SeenSecret
    password: str
    note: Note

    @property
    def username(self) -> str:
        """The login that it names: the tenant's role or its second login."""
        return self.terms.role


async def hold(
    kube: Kube,
    terms: CredentialsSecret,
    credentials: Credentials,
    done: CredentialsStatus | None,
    now: datetime,
    *,
    likely_new: bool,
) -> Held:
    """Make the Secret right, with a new password only where there is none that is good.

    ``terms`` name the tenant's role, and ``done`` is what the Tenant's status says. Otherwise as
    ``tenants.secret.ensure_credentials``.
    """
    fresh, note = new_password(), first_note(credentials, done, now)
    if likely_new:
        made = await create_secret(kube, terms.owned, Content(values(terms, fresh), written(note)))
        if made is not None:
            return Held(terms, made, fresh, note)
    seen = await read_secret(kube, terms.owned)
    present = seen.content.values if seen else {}
    password = good_password(present.get("password", ""))
    if password is not None and present.get("username") == second_login(terms.role):
        terms = replace(terms, role=second_login(terms.role))
    annotations = written(note)
    if seen is not None and password is not None:
        known = read_note(seen.content.annotations, seen.created)
        note = settled(credentials, known, now)
        # A Secret of an earlier release is not written for the note alone.
        annotations = written(note) if note != known or ANNOTATION in seen.content.annotations else {}
    content = Content(values(terms, password or fresh), annotations)
    return Held(terms, await write_secret(kube, terms.owned, content, seen), password or fresh, note)


async def write(kube: Kube, held: Held, username: str, password: str, note: Note) -> Held:
    """Have the Secret hold that login and password, and note that. Raises Transient when it changed meanwhile."""
    terms = replace(held.terms, role=username)
    content = Content(values(terms, password), written(note))
    return Held(terms, await write_secret(kube, terms.owned, content, held.seen), password, note)


def new_password() -> str:
    """A password that nobody can guess."""
    return secrets.token_urlsafe(PASSWORD_BYTES)
