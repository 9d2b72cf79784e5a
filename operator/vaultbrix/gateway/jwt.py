"""Tokens: those of a tenant's users are verified, and one that lives two minutes is minted for PostgREST. Pure.

Which algorithm a token may use is decided by the key that verifies it, never by the token (RFC 8725 3.1). ``kid`` only
chooses among the tenant's own keys. No key is ever taken from a token.
"""

import base64
import hmac
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

Claims = Mapping[str, Any]

LONGEST_TOKEN = 8192
LONGEST_KID = 256
LONGEST_SUBJECT = 256
SHORTEST_SECRET = 32
MOST_KEYS = 32
LIFE = timedelta(minutes=2)
# By how much an issuer's clock may be ahead of ours.
LEEWAY_SECONDS = 30

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_CURVES: Mapping[type[ec.EllipticCurve], str] = {ec.SECP256R1: "ES256", ec.SECP384R1: "ES384", ec.SECP521R1: "ES512"}
_RSA_BITS = range(2048, 8193)
# A larger one makes every check slow, and nobody has one.
_MOST_EXPONENT = 2**32
# Time and parties are checked here, by a clock that is a parameter.
_SIGNATURE_ALONE: Any = {
    "verify_signature": True, "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False,
    "verify_iss": False, "verify_sub": False, "verify_jti": False,
}  # fmt: skip


class TokenRefused(Exception):
    """A token that is not accepted; the message may be shown to its sender."""


class TokenExpired(TokenRefused):
    """The token was good once."""


class TokenKeyUnknown(TokenRefused):
    """None of the keys known now fits; another read of the issuer's keys may bring one."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key that verifies with one algorithm. ``kid`` is None for a key that has no name."""

    algorithm: str
    material: Any = field(repr=False)
    kid: str | None = None


@dataclass(frozen=True, slots=True)
class Users:
    """Whose tokens a tenant accepts. ``keys`` is empty while they could not be read from ``source``, a URL."""

    keys: tuple[TokenKey, ...]
    issuer: str | None = None
    audience: str | None = None
    role_claim: str = "role"
    source: str = ""


def secret_key(secret: bytes) -> TokenKey:
    """The key of a secret that the tenant shares with its issuer. Raises ValueError for one that is too short."""
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(f"a secret for HS256 needs at least {SHORTEST_SECRET} bytes (RFC 7518 3.2)")
    return TokenKey("HS256", secret)


def keys_of_jwks(document: bytes) -> tuple[TokenKey, ...]:
    """The public keys for signatures in a JWK Set (RFC 7517 5); others in it are passed over.

    Raises ValueError for a text that is no JWK Set, or one with too many keys. Symmetric keys are passed over, too: a
    document that anybody can read holds no secret.
    """
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    members = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(members, list) or len(members) > MOST_KEYS:
        raise ValueError(f"no JWK Set: it has no list of at most {MOST_KEYS} keys")
    keys = [key for member in members if isinstance(member, dict) and (key := _public_key(member)) is not None]
    # Of two keys with one name none is used: which is meant cannot be told.
    names = [(key.kid, key.algorithm) for key in keys]
    return tuple(key for key, name in zip(keys, names, strict=True) if names.count(name) == 1)


def verify(token: str, users: Users, now: datetime) -> Claims:
    """The claims of a token of the tenant's users. Raises TokenRefused.

    They can be written as JSON that PostgreSQL reads.
    """
    if len(token) > LONGEST_TOKEN:
        raise TokenRefused("JWT is too long")
    if not _FORM.fullmatch(token):
        raise TokenRefused("JWT could not be read")
    try:
        key = _chosen(jwt.get_unverified_header(token), users.keys)
        claims = jwt.decode(token, key.material, algorithms=[key.algorithm], options=_SIGNATURE_ALONE)
        text = json.dumps(claims, allow_nan=False, ensure_ascii=False).encode()
    except jwt.InvalidSignatureError:
        raise TokenRefused("JWT has no valid signature") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        # ValueError: numbers and characters that Python reads in JSON, and PostgreSQL does not.
        raise TokenRefused("JWT could not be read") from None
    if rb"\u0000" in text:
        raise TokenRefused("JWT holds a character that PostgreSQL has no place for")
    check_time(claims, now)
    if users.issuer is not None and claims.get("iss") != users.issuer:
        raise TokenRefused("JWT is of another issuer")
    audience = claims.get("aud")
    if users.audience is not None and users.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenRefused("JWT is for another audience")
    subject = claims.get("sub", "")
    if not isinstance(subject, str) or len(subject) > LONGEST_SUBJECT or not subject.isprintable():
        raise TokenRefused("JWT has a subject that cannot be used")
    return claims


def check_time(claims: Claims, now: datetime) -> None:
    """Check that a token is good now; one without an end is not accepted. Raises TokenRefused."""
    if _seconds(claims, "exp", required=True) <= now.timestamp():
        raise TokenExpired("JWT expired")
    latest = now.timestamp() + LEEWAY_SECONDS
    if _seconds(claims, "nbf") > latest or _seconds(claims, "iat") > latest:
        raise TokenRefused("JWT is not valid yet")


def mint(secret: bytes, claims: Claims, now: datetime) -> str:
    """A token for PostgREST with these claims, which ends after LIFE. Raises ValueError for a secret too short.

    Written here (RFC 7515 7.1, with HS256), as PyJWT looks anew at the secret for each token, which takes longer than
    all else that is done for a request.
    """
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(f"a secret for HS256 needs at least {SHORTEST_SECRET} bytes (RFC 7518 3.2)")
    issued = int(now.timestamp())
    content = {**claims, "iat": issued, "exp": issued + int(LIFE.total_seconds())}
    signed = f"{_HS256}.{_base64url(_compact(content).encode())}"
    return f"{signed}.{_base64url(hmac.digest(secret, signed.encode(), 'sha256'))}"


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


_compact = json.JSONEncoder(separators=(",", ":")).encode
_HS256 = _base64url(b'{"alg":"HS256","typ":"JWT"}')


def _chosen(header: Claims, keys: tuple[TokenKey, ...]) -> TokenKey:
    algorithm, kid = header.get("alg"), header.get("kid")
    if "crit" in header or "b64" in header:
        raise TokenRefused("JWT demands extensions that are not known here")
    if kid is not None and (not isinstance(kid, str) or len(kid) > LONGEST_KID):
        raise TokenRefused("JWT could not be read")
    fitting = [k for k in keys if k.algorithm == algorithm and (kid is None or k.kid is None or k.kid == kid)]
    if len(fitting) != 1:
        raise TokenKeyUnknown("JWT is signed with a key that is not known here")
    return fitting[0]


def _public_key(member: Mapping[str, Any]) -> TokenKey | None:
    """A member of a JWK Set as a key, or None for one that verifies no signature here."""
    kid, operations = member.get("kid"), member.get("key_ops", ["verify"])
    if not isinstance(kid, str | None) or len(kid or "") > LONGEST_KID or member.get("use", "sig") != "sig":
        return None
    if member.get("kty") == "oct" or "d" in member or not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        # Without what the member says of its algorithm, which is compared below with what its key can do.
        material = jwt.PyJWK({name: value for name, value in member.items() if name != "alg"}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    algorithms = _algorithms(material)
    algorithm = member.get("alg", next(iter(algorithms), None))
    return TokenKey(algorithm, material, kid) if algorithm in algorithms else None


def _algorithms(material: object) -> list[str]:
    """What a public key may verify, by its kind alone; first the one that is meant where the key does not say."""
    if isinstance(material, rsa.RSAPublicKey):
        usable = material.key_size in _RSA_BITS and material.public_numbers().e < _MOST_EXPONENT
        return ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] if usable else []
    if isinstance(material, ec.EllipticCurvePublicKey) and type(material.curve) in _CURVES:
        return [_CURVES[type(material.curve)]]
    if isinstance(material, ed25519.Ed25519PublicKey):
        return ["EdDSA"]
    return []


def _seconds(claims: Claims, name: str, *, required: bool = False) -> float:
    """A claim that is a time, in seconds since 1970; without it, a time long ago. Raises TokenRefused."""
    if name not in claims and not required:
        return -math.inf
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenRefused(f"JWT has no {name} that can be used")
    return value
