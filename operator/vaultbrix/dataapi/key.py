"""The text of a key, ``vbx_<kind>_<random><checksum>``, and what may be known of it beyond its Secret. Pure.

The random part is 32 bytes and the checksum the CRC-32 of all that stands before it, both in base64url without
padding (RFC 4648 5): 43 and 6 characters. So a scanner for secrets tells a key from other text without asking anybody.
"""

import base64
import hashlib
import zlib
from collections.abc import Mapping

from vaultbrix.api.apikey import KeyKind

RANDOM_BYTES = 32

_BEGINNINGS = {KeyKind.PUBLISHABLE: "vbx_publishable_", KeyKind.SECRET: "vbx_secret_"}
_RANDOM_CHARACTERS, _CHECKSUM_CHARACTERS = 43, 6
_SHOWN_CHARACTERS = 20


def key_text(kind: KeyKind, random: bytes) -> str:
    """A key of that kind from RANDOM_BYTES bytes that nobody can guess. Raises ValueError for another number."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a key is made of {RANDOM_BYTES} random bytes")
    body = _BEGINNINGS[kind] + _base64url(random)
    return body + _checksum(body)


def kind_of(text: str) -> KeyKind | None:
    """The kind of a key, or None for a text that is no key: another form, or a checksum that does not fit."""
    for kind, beginning in _BEGINNINGS.items():
        if not text.startswith(beginning) or len(text) != len(beginning) + _RANDOM_CHARACTERS + _CHECKSUM_CHARACTERS:
            continue
        body, checksum = text[:-_CHECKSUM_CHARACTERS], text[-_CHECKSUM_CHARACTERS:]
        return kind if body.isascii() and checksum == _checksum(body) else None
    return None


def sha256_of(text: str) -> str:
    """What the key is known by everywhere but in its Secret: 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def shown_prefix(text: str) -> str:
    """The beginning of the key, which people tell it by; the rest is as hard to guess as a key of 200 bits."""
    return text[:_SHOWN_CHARACTERS]


def secret_values(text: str, kind: KeyKind, url: str) -> Mapping[str, str]:
    """All keys of the Secret, in clear; ``url`` is where the data API is, or empty where that is not known."""
    return {"key": text, "kind": str(kind), **({"url": url} if url else {})}


def _checksum(body: str) -> str:
    return _base64url(zlib.crc32(body.encode()).to_bytes(4))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
