"""What a client is told that is not let in, in the form of PostgREST's errors. Pure.

Whoever holds no good key learns nothing: a key that is unknown, ended, of another host's tenant or used from elsewhere
gets the same bytes. ``Why`` is for the record and for metrics.
"""

import json
from dataclasses import dataclass
from enum import StrEnum

from vaultbrix.gateway.known import ObjectKey


class Why(StrEnum):
    """The true cause, which only operators see."""

    MALFORMED = "Malformed"
    NOT_FOUND = "NotFound"
    NO_KEY = "NoKey"
    KEY_UNKNOWN = "KeyUnknown"
    KEY_EXPIRED = "KeyExpired"
    KEY_CLOSED = "KeyClosed"
    OTHER_HOST = "OtherHost"
    OTHER_ADDRESS = "OtherAddress"
    TOKEN_INVALID = "TokenInvalid"  # noqa: S105 - names of causes
    TOKEN_EXPIRED = "TokenExpired"  # noqa: S105
    TOKEN_KEY_UNKNOWN = "TokenKeyUnknown"  # noqa: S105
    ROLE = "Role"
    PROFILE = "Profile"
    NOT_SERVED = "NotServed"
    RATE = "Rate"
    UNAVAILABLE = "Unavailable"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer. ``challenge`` is the value of WWW-Authenticate; ``retry_after`` is in seconds, 0 for none.

    ``key`` and ``tenant`` are those that the request names, as far as they are known, (namespace, name) each;
    ``key_sha256`` is the beginning of the hash of the key's text. The client is not told.
    """

    why: Why
    status: int
    code: str
    message: str
    hint: str | None = None
    challenge: str = ""
    retry_after: int = 0
    key: ObjectKey | None = None
    key_sha256: str = ""
    tenant: ObjectKey | None = None

    @property
    def body(self) -> bytes:
        """The error as JSON, in ASCII and without a line end, with PostgREST's four members."""
        members = {"code": self.code, "details": None, "hint": self.hint, "message": self.message}
        return json.dumps(members, separators=(",", ":")).encode("ascii")


def malformed(message: str) -> Refusal:
    """The request itself is not as it must be."""
    return Refusal(Why.MALFORMED, 400, "VBX400", message)


def method_not_allowed() -> Refusal:
    """PostgREST knows no such method."""
    return Refusal(Why.MALFORMED, 405, "PGRST117", "Unsupported HTTP method")


def target_too_long() -> Refusal:
    """More than any query needs."""
    return Refusal(Why.MALFORMED, 414, "VBX414", "The request's path and query are too long")


def not_found() -> Refusal:
    """No table and no function can be at that path or on that host."""
    return Refusal(Why.NOT_FOUND, 404, "PGRST125", "Invalid path specified in request URL")


def no_key() -> Refusal:
    """Nothing says for which tenant the request is."""
    return Refusal(
        Why.NO_KEY,
        401,
        "VBX401",
        "No API key found in request",
        hint="Send the key as the header apikey, or as apikey in the query.",
        challenge='Bearer realm="vaultbrix"',
    )


def bad_key(why: Why) -> Refusal:
    """The key opens nothing here, for a cause that the client is not told."""
    return Refusal(
        why,
        401,
        "VBX401",
        "Invalid API key",
        hint="The key is not known here, has ended, or may not be used in this way.",
        challenge='Bearer realm="vaultbrix"',
    )


def bad_token(why: Why, message: str) -> Refusal:
    """The user's token is not accepted; ``message`` is quoted and holds nothing of the token."""
    challenge = f'Bearer error="invalid_token", error_description="{message}"'
    return Refusal(why, 401, "PGRST301", message, challenge=challenge)


def no_user_keys() -> Refusal:
    """The keys of the tenant's users could not be read, so nobody's token can be checked."""
    return Refusal(
        Why.TOKEN_KEY_UNKNOWN, 503, "VBX503", "The tokens of this tenant's users cannot be checked now", retry_after=5
    )


def bad_role() -> Refusal:
    """The user's token asks for a role that its key does not give."""
    return Refusal(
        Why.ROLE,
        403,
        "VBX403",
        "The token's role is not allowed with this API key",
        hint="A user's role is anon or authenticated.",
    )


def bad_profile(own: str) -> Refusal:
    """Another schema than the tenant's own was asked for; as PostgREST says it, with the tenant's own alone."""
    return Refusal(Why.PROFILE, 406, "PGRST106", f"The schema must be one of the following: {own}")


def not_served() -> Refusal:
    """The tenant has no data API, or none any more."""
    return Refusal(Why.NOT_SERVED, 403, "VBX403", "The data API is not switched on for this tenant")


def not_running() -> Refusal:
    """The tenant's PostgREST does not answer yet."""
    return Refusal(Why.UNAVAILABLE, 503, "VBX503", "The data API of this tenant is not ready yet", retry_after=5)


def too_many(wait: int) -> Refusal:
    """More requests with one key than are let through; ``wait`` is in whole seconds."""
    return Refusal(Why.RATE, 429, "VBX429", "Too many requests with this API key", retry_after=max(1, wait))


def unavailable() -> Refusal:
    """Nothing can be decided now."""
    return Refusal(Why.UNAVAILABLE, 503, "VBX503", "The data API is not available at the moment", retry_after=1)
