"""Whether a request is let in, and as whom: one tenant, one role, one schema. Pure.

Nothing that a client sends chooses the schema or the role beyond what its key and its user give; what PostgREST reads
of both is written here, over whatever the client sent.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from vaultbrix.api.apikey import KeyKind
from vaultbrix.gateway import refusals
from vaultbrix.gateway.jwt import Claims, TokenExpired, TokenKeyUnknown, TokenRefused, Users, mint, verify
from vaultbrix.gateway.known import Known, KnownKey, KnownTenant
from vaultbrix.gateway.refusals import Refusal, Why
from vaultbrix.gateway.request import LONGEST_KEY, Request, read_bearer, read_key, read_slug, read_target
from vaultbrix.runtime.addresses import within

# What clients of Supabase name the schema when nobody tells them one.
DEFAULT_PROFILE = "public"
# The claim that auth.role() gives: PostgREST writes PostgreSQL's role over the claim "role".
POLICY_ROLE = "vaultbrix_role"
_KEY = re.compile(r"[A-Za-z0-9_-]+")

Verify = Callable[[str, Users, datetime], Claims]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same for all requests. ``domain`` is in lower case; ``secret`` signs what PostgREST accepts."""

    domain: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request goes on with these headers in place of any of the same name."""

    headers: Mapping[str, str]
    key: KnownKey
    role: str
    subject: str


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who a request is for: PostgreSQL's role, the name of it that policies know, and the user's claims."""

    role: str
    policy_role: str
    claims: Claims


def decide(
    request: Request,
    known: Known,
    now: datetime,
    settings: Settings,
    *,
    verify: Verify = verify,
    seconds_to_wait: Callable[[KnownKey], float] = lambda _: 0.0,
) -> Allowed | Refusal:
    """Let the request in, or say why not.

    ``verify`` checks a user's token and may remember those that it has seen. ``seconds_to_wait`` counts a request of a
    good key, and says how long it is too early; 0 lets it through.
    """
    target = read_target(request)
    if isinstance(target, Refusal):
        return target
    slug = read_slug(request.host, settings.domain)
    if isinstance(slug, Refusal):
        return slug
    text = read_key(request, target)
    if isinstance(text, Refusal):
        return text
    if text is None:
        return refusals.no_key()
    key = _key_of(text, known)
    if key is None:
        return refusals.bad_key(Why.KEY_UNKNOWN)

    def with_key() -> Allowed | Refusal:
        tenant = _tenant_of(key, slug, request, known, now)
        if isinstance(tenant, Refusal):
            return tenant
        if wait := seconds_to_wait(key):
            return refusals.too_many(math.ceil(wait))
        if not tenant.served:
            return refusals.not_served()
        caller = _caller(read_bearer(request, text), key, tenant, now, verify)
        if isinstance(caller, Refusal):
            return caller
        if not _own_profile(request, tenant):
            return refusals.bad_profile(tenant.role)
        return _allowed(request, target.upstream, key, tenant, caller, now, settings)

    decision = with_key()
    if isinstance(decision, Refusal):
        return replace(decision, key=key.name, key_sha256=shown_hash(key), tenant=key.tenant)
    return decision


def shown_hash(key: KnownKey) -> str:
    """What the record has of a key's text: as much of its hash as tells the texts of one APIKey apart."""
    return key.sha256[:16]


def _key_of(text: str, known: Known) -> KnownKey | None:
    if len(text) > LONGEST_KEY or not _KEY.fullmatch(text):
        return None
    return known.key(hashlib.sha256(text.encode()).hexdigest())


def _tenant_of(key: KnownKey, slug: str | None, request: Request, known: Known, now: datetime) -> KnownTenant | Refusal:
    """The tenant that the key opens now, here and from there. All refusals are the same to the client."""
    if key.closed:
        return refusals.bad_key(Why.KEY_CLOSED)
    if key.ends_at is not None and key.ends_at <= now:
        return refusals.bad_key(Why.KEY_EXPIRED)
    if key.allowed_cidrs and not within(request.client, key.allowed_cidrs):
        return refusals.bad_key(Why.OTHER_ADDRESS)
    tenant = known.tenant(key.tenant)
    if tenant is None:
        return refusals.bad_key(Why.KEY_CLOSED)
    if slug is not None and slug != tenant.slug:
        return refusals.bad_key(Why.OTHER_HOST)
    return tenant


def _caller(
    bearer: str | Refusal | None, key: KnownKey, tenant: KnownTenant, now: datetime, verify: Verify
) -> _Caller | Refusal:
    """As whom the request is made. A user's token counts with either kind of key, and never adds to its rights."""
    if isinstance(bearer, Refusal):
        return bearer
    anon = _Caller(f"{tenant.role}_anon", "anon", {})
    if bearer is None:
        return anon if key.kind is KeyKind.PUBLISHABLE else _Caller(tenant.role, "service_role", {})
    if tenant.users is None:
        return refusals.bad_token(Why.TOKEN_INVALID, "JWT is signed with a key that is not known here")
    try:
        claims = verify(bearer, tenant.users, now)
    except TokenExpired as error:
        return refusals.bad_token(Why.TOKEN_EXPIRED, str(error))
    except TokenKeyUnknown as error:
        if not tenant.users.keys:
            return refusals.no_user_keys()
        return refusals.bad_token(Why.TOKEN_KEY_UNKNOWN, str(error))
    except TokenRefused as error:
        return refusals.bad_token(Why.TOKEN_INVALID, str(error))
    match claims.get(tenant.users.role_claim, "authenticated"):
        case "authenticated":
            return _Caller(f"{tenant.role}_authenticated", "authenticated", claims)
        case "anon":
            return _Caller(anon.role, anon.policy_role, claims)
    return refusals.bad_role()


def _own_profile(request: Request, tenant: KnownTenant) -> bool:
    """Whether the request names no schema, or the tenant's own, once in each header."""
    for name in ("accept-profile", "content-profile"):
        values = request.values(name)
        if values and values not in ([tenant.role], [DEFAULT_PROFILE]):
            return False
    return True


def _allowed(
    request: Request,
    upstream: str,
    key: KnownKey,
    tenant: KnownTenant,
    caller: _Caller,
    now: datetime,
    settings: Settings,
) -> Allowed:
    subject = str(caller.claims.get("sub", ""))
    # Within the signature, so that no proxy has to be trusted to overwrite what a client sent.
    about = {
        "role": caller.role,
        "tenant": "/".join(tenant.name),
        "key": "/".join(key.name),
        "key_sha256": shown_hash(key),
        "subject": subject,
        "client": str(request.client),
        "request": request.request_id,
    }
    own = ("exp", "iat", "nbf", "role", "vaultbrix", POLICY_ROLE)
    claims = {name: value for name, value in caller.claims.items() if name not in own}
    token = mint(settings.secret, {**claims, POLICY_ROLE: caller.policy_role, "vaultbrix": about}, now)
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept-Profile": tenant.role,
        "Content-Profile": tenant.role,
        "X-Request-Id": request.request_id,
        "X-Vaultbrix-Tenant": about["tenant"],
        "X-Vaultbrix-Key": about["key"],
        "X-Vaultbrix-Backend": tenant.backend,
        "X-Vaultbrix-Path": upstream,
    }
    return Allowed(headers, key, caller.role, subject)
