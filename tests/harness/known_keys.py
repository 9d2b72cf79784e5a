"""Keys and tenants as the authorizer knows them, changed by a test as it likes, and users' tokens."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vaultbrix.api.apikey import KeyKind
from vaultbrix.gateway.known import KnownKey, KnownTenant, ObjectKey
from vaultbrix.gateway.postgrest import socket_name
from vaultbrix.gateway.request import Request
from vaultbrix.runtime.addresses import parse_address

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
DOMAIN = "api.example.com"
USERS_SECRET = b"the users' secret of one tenant alone"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class KnownInMemory:
    """As ``vaultbrix.gateway.known.Known``."""

    keys: dict[str, KnownKey] = field(default_factory=dict)
    tenants: dict[ObjectKey, KnownTenant] = field(default_factory=dict)

    def key(self, sha256: str) -> KnownKey | None:
        return self.keys.get(sha256)

    def tenant(self, name: ObjectKey) -> KnownTenant | None:
        return self.tenants.get(name)

    def add_tenant(self, slug: str, **changes: Any) -> KnownTenant:
        """A tenant in the namespace ``apps``."""
        tenant = replace(KnownTenant(("apps", slug), slug, backend=socket_name(("apps", slug))), **changes)
        self.tenants[tenant.name] = tenant
        return tenant

    def add_key(self, slug: str, kind: KeyKind = KeyKind.PUBLISHABLE, **changes: Any) -> str:
        """A key of a tenant; returns its text."""
        text = f"vbx_{kind.lower()}_{slug}{len(self.keys):03}".ljust(60, "x")
        self.keys[digest(text)] = replace(
            KnownKey(("apps", f"{slug}-{kind.lower()}"), ("apps", slug), kind, digest(text)), **changes
        )
        return text

    def change_key(self, text: str, **changes: Any) -> None:
        """Have something else be known of a key."""
        self.keys[digest(text)] = replace(self.keys[digest(text)], **changes)


def users_secret(slug: str) -> bytes:
    """What the issuer of a tenant's users signs with."""
    return f"the secret of the users of {slug} alone".encode()


def digest(text: str) -> str:
    """SHA-256 of a key's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def request(
    target: str = "/rest/v1/notes",
    *headers: tuple[str, str],
    method: str = "GET",
    host: str = DOMAIN,
    client: str = "203.0.113.7",
) -> Request:
    """A request with these headers."""
    named = tuple((name.lower(), value) for name, value in headers)
    return Request(method, target, host, named, parse_address(client), "0123456789abcdef0123456789abcdef")


def user_token(
    secret: Any = USERS_SECRET, *, algorithm: str = "HS256", header: Mapping[str, Any] | None = None, **claims: Any
) -> str:
    """A token of a user, good for an hour from NOW on unless its claims say otherwise; None leaves a claim out."""
    content = {"sub": "7b1c", "exp": int(NOW.timestamp()) + 3600, **claims}
    kept = {name: value for name, value in content.items() if value is not None}
    return jwt.encode(kept, secret, algorithm=algorithm, headers=dict(header or {}))


def user_header(slug: str, **claims: Any) -> tuple[str, str]:
    """The header of a user of a tenant who is logged in for a minute from now on."""
    return ("Authorization", f"Bearer {user_token(users_secret(slug), **{'exp': int(time.time()) + 60, **claims})}")


def jwks(*keys: rsa.RSAPrivateKey, **members: Any) -> bytes:
    """A JWK Set of these keys, which are named k0, k1 and so on."""
    published = []
    for n, key in enumerate(keys):
        member = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        published.append({**member, "kid": f"k{n}", "use": "sig", **members})
    return json.dumps({"keys": published}).encode()


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    """The public key as everybody can fetch it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
