"""What is said of a role that somebody changed: that it was put right, and who it was. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from vaultbrix.api.meta import rfc3339
from vaultbrix.runtime.visible import visible

# The record is behind by the time that a line takes to be written, shipped and stored.
RECORDED_WITHIN = timedelta(seconds=60)

_LONGEST_NAME = 100


@dataclass(frozen=True)
class RoleChange:
    """A statement on record that changed a role, or may have.

    ``person`` and ``address`` are empty where they are not known. ``names_role`` is False for a statement that changed
    some role and does not name this one, as ``ALTER ROLE CURRENT_USER``.
    """

    at: datetime
    login: str
    person: str
    address: str
    command: str
    names_role: bool


def put_back(role: str, changed: Sequence[str]) -> str:
    """What the event says of a role that was put right."""
    return visible(f"role {role} was changed by somebody else and is as specified again: {', '.join(changed)}")


def changed_by(
    role: str, changes: Sequence[RoleChange], since: datetime, asked_since: datetime, now: datetime
) -> str | None:
    """What a second event says of who it was, None as long as the record may still be told.

    ``changes``: what the record has from ``since`` on, newest first; ``asked_since``: when the role was put right.
    """
    named = [change for change in changes if change.names_role]
    if not named and now < asked_since + RECORDED_WITHIN:
        return None
    times = f"between {rfc3339(since)} and {rfc3339(asked_since)}"
    if not named and not changes:
        return visible(
            f"the record has no statement that changed role {role} {times}: whoever did may be a superuser who switched"
            " it off; see condition AuditFlowing of the PostgresServer"
        )
    said = dict.fromkeys(map(_said, named or changes))
    who = "; ".join(said)
    if named:
        return visible(f"role {role} was changed by {who}")
    return visible(f"the record has no statement {times} that names role {role}; it may have been changed by {who}")


def _said(change: RoleChange) -> str:
    person = f"{change.person[:_LONGEST_NAME]} as " if change.person else ""
    address = f" from {change.address}" if change.address else ""
    login = f"login {change.login[:_LONGEST_NAME]}"
    return f"{person}{login}{address} at {rfc3339(change.at)} ({change.command[:_LONGEST_NAME]})"
