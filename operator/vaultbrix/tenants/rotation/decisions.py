"""Decides when a tenant's password is replaced, and what its Secret notes of that. Pure.

The note is an annotation of the Secret, so that it is written in one piece with the password that it is about: an
operator that dies at any moment finds what was done, and neither forgets a rotation nor makes one twice.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import ValidationError

from vaultbrix.api.meta import ApiModel, Timestamp, format_duration, rfc3339
from vaultbrix.api.tenant import Credentials, CredentialsStatus

ANNOTATION = "vaultbrix.com/rotation"
"""Of the Secret: a Note as JSON."""

LOOK_AGAIN = timedelta(seconds=5)


class EndedSessions(ApiModel):
    """Which sessions have no right to be there: those that began ``before`` the leaked password ended.

    ``before`` is by PostgreSQL's clock, None until the password has ended. Whoever was logging in at that moment may
    turn up until ``watched_until``, by the operator's clock.
    """

    before: datetime | None = None
    watched_until: Timestamp | None = None


class Previous(ApiModel):
    """The login that the Secret named before, whose password is good until a time.

    ``verifier`` is the SHA-256 of what PostgreSQL has of that password: the password itself is kept nowhere.
    """

    login: str
    until: Timestamp
    verifier: str


class Cause(StrEnum):
    """Why a password was made: by the field of spec.credentials that said so."""

    REVOKE_TOKEN = "revokeToken"  # noqa: S105 - a field's name
    ROTATE_TOKEN = "rotateToken"  # noqa: S105 - a field's name
    ROTATE_EVERY = "rotateEvery"
    LOST = "lost"


class Note(ApiModel):
    """When the password was made and why, for which tokens, and what becomes of the one before it."""

    rotated_at: Timestamp
    cause: Cause = Cause.LOST
    rotate_token: str | None = None
    revoke_token: str | None = None
    previous: Previous | None = None
    ended_sessions: EndedSessions | None = None


def first_note(credentials: Credentials, done: CredentialsStatus | None, now: datetime) -> Note:
    """What a new Secret notes; ``done`` is what the Tenant's status says, of a Secret that was there before."""
    # The password of a Secret that somebody deleted may be known to whoever had it.
    revoked = credentials.revoke_token not in (None, done.revoke_token if done else None)
    return Note(
        rotated_at=now.replace(microsecond=0),
        rotate_token=credentials.rotate_token,
        revoke_token=credentials.revoke_token,
        ended_sessions=EndedSessions() if revoked else None,
    )


def read_note(annotations: Mapping[str, str], created: datetime) -> Note:
    """What a Secret notes; one of an earlier release, or one that somebody spoiled, is as old as the Secret."""
    try:
        return Note.model_validate_json(annotations.get(ANNOTATION, ""))
    except ValidationError:
        return Note(rotated_at=created)


def written(note: Note) -> dict[str, str]:
    """The annotations of a Secret that notes this."""
    return {ANNOTATION: note.model_dump_json(by_alias=True, exclude_none=True)}


def settled(credentials: Credentials, note: Note, now: datetime) -> Note:
    """The note, made to say now where it names a time so far ahead that only a clock which was wrong can have been.

    Otherwise nothing would be rotated until that time.
    """
    every = credentials.rotate_every
    if every is not None and note.rotated_at > now + every:
        return note.model_copy(update={"rotated_at": now.replace(microsecond=0)})
    return note


def due(credentials: Credentials, note: Note, now: datetime) -> Cause | None:
    """Why the password is to be replaced now, None where it is not."""
    if credentials.revoke_token not in (None, note.revoke_token):
        return Cause.REVOKE_TOKEN
    if credentials.rotate_token not in (None, note.rotate_token):
        return Cause.ROTATE_TOKEN
    every = credentials.rotate_every
    return Cause.ROTATE_EVERY if every is not None and now >= note.rotated_at + every else None


def keeps_previous(credentials: Credentials, cause: Cause) -> bool:
    """Whether the password of before stays good for a while, so that another login gets the new one."""
    return cause is not Cause.REVOKE_TOKEN and credentials.keep_previous > timedelta()


def rotated(credentials: Credentials, note: Note, cause: Cause, now: datetime) -> Note:
    """What the Secret notes beside a new password, if nothing of before stays good."""
    return Note(
        rotated_at=now.replace(microsecond=0),
        cause=cause,
        rotate_token=credentials.rotate_token or note.rotate_token,
        revoke_token=credentials.revoke_token or note.revoke_token,
        # Sessions that were to end earlier still are, should the operator have died before that.
        ended_sessions=EndedSessions() if cause is Cause.REVOKE_TOKEN else note.ended_sessions,
    )


def keeping(note: Note, credentials: Credentials, login: str, verifier: str) -> Note:
    """The note beside a new password of another login, where that of ``login`` stays good for a while."""
    until = note.rotated_at + credentials.keep_previous
    return note.model_copy(update={"previous": Previous(login=login, until=until, verifier=verifier)})


def previous_of(credentials: Credentials, note: Note, now: datetime) -> Previous | None:
    """The login of before, as long as its password is good; to shorten keepPrevious holds for it too."""
    if note.previous is None:
        return None
    until = min(note.previous.until, note.rotated_at + credentials.keep_previous)
    return note.previous.model_copy(update={"until": until}) if now < until else None


def next_look(credentials: Credentials, note: Note, now: datetime) -> datetime | None:
    """When there is something to do next, None where there is not."""
    times = []
    if credentials.rotate_every is not None:
        times.append(note.rotated_at + credentials.rotate_every)
    if (previous := previous_of(credentials, note, now)) is not None:
        times.append(previous.until)
    ended = note.ended_sessions
    if ended is not None and ended.watched_until is not None and now < ended.watched_until:
        times.append(now + LOOK_AGAIN)
    return min(times, default=None)


def status_of(credentials: Credentials, note: Note, username: str, now: datetime) -> CredentialsStatus:
    """What the Tenant's status says once PostgreSQL takes what the Secret holds."""
    previous = previous_of(credentials, note, now)
    return CredentialsStatus(
        username=username,
        rotated_at=note.rotated_at,
        previous_until=previous.until if previous is not None else None,
        rotate_token=note.rotate_token,
        revoke_token=note.revoke_token,
    )


def is_told(note: Note, done: CredentialsStatus | None) -> bool:
    """Whether the Tenant's status knows of this password already, or of none, so that no event has to tell of it."""
    if done is None:
        return True
    told = (done.rotated_at, done.rotate_token, done.revoke_token)
    return told == (note.rotated_at, note.rotate_token, note.revoke_token)


def event(credentials: Credentials, note: Note, secret_name: str, done: CredentialsStatus) -> str:
    """What the event says of a rotation: which Secret and why, never what is in it. ``done`` is the new status."""
    why = {
        Cause.REVOKE_TOKEN: "spec.credentials.revokeToken: the sessions that began before have ended",
        Cause.ROTATE_TOKEN: "spec.credentials.rotateToken",
        Cause.ROTATE_EVERY: f"rotateEvery is {format_duration(credentials.rotate_every or timedelta())}",
        Cause.LOST: "it had none that is good",
    }[note.cause]
    kept = ""
    if note.previous is not None and done.previous_until is not None:
        kept = f"; the one before, for {note.previous.login}, is good until {rfc3339(done.previous_until)}"
    return f"Secret {secret_name} has a new password for {done.username} ({why}){kept}"
