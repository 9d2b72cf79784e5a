"""A client's request as the proxy in front describes it, and what can be told from it without knowing any key. Pure.

Everything here is read once and strictly: what two programs might read in two ways is refused.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_plus, unquote_to_bytes

from vaultbrix.gateway.refusals import Refusal, malformed, method_not_allowed, not_found, target_too_long
from vaultbrix.runtime.addresses import Address

PREFIX = "/rest/v1"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LONGEST_TARGET = 16_384
LONGEST_KEY = 128

# Bytes over 0x7f are let through, as curl sends them when nobody encodes; they go on encoded.
_TARGET = re.compile(r"/[!-~\x80-\xff]*")
# These types show names from the catalogue, which is all tenants', for whatever number or text is cast to them.
_CAST_TO_NAMES = re.compile(
    r"::\s*(aclitem|reg(class|collation|config|dictionary|namespace|oper|operator|proc|procedure|role|type))\b", re.I
)
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_BAD_IN_NAME = re.compile(r"[/\\%\x00-\x1f\x7f-\x9f]")
_PLAIN = re.compile(r"[A-Za-z0-9_]+")
_PARTS = re.compile(r"(^|[&;])([^&;]*)")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[a-z0-9]([a-z0-9_.-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as the client sent it to the proxy.

    ``target`` is path and query as they were sent, byte for byte (as latin-1); names in ``headers`` are in lower case
    and may stand there several times; ``client`` is the address that the proxy vouches for.
    """

    method: str
    target: str
    host: str
    headers: tuple[tuple[str, str], ...]
    client: Address
    request_id: str

    def values(self, name: str) -> list[str]:
        """All values of a header, by its name in lower case."""
        return [value for known, value in self.headers if known == name]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. ``upstream`` is path and query for PostgREST, without the prefix and without the key."""

    upstream: str
    key: str | None


def read_target(request: Request) -> Target | Refusal:
    """Path and query in the one form that goes on, or why there is none."""
    if request.method not in METHODS:
        return method_not_allowed()
    if len(request.target) > LONGEST_TARGET:
        return target_too_long()
    if not _TARGET.fullmatch(request.target) or "#" in request.target:
        return malformed("The request's path holds characters that it must not")
    path, _, query = request.target.partition("?")
    names = _names(path)
    if isinstance(names, Refusal):
        return names
    rest, keys = _without_keys(query)
    if len(keys) > 1:
        return malformed("The query has apikey more than once")
    if _shows_names(rest):
        return malformed("A column cannot be cast to a type that stands for names in the database")
    upstream = "/" + "/".join(name if _PLAIN.fullmatch(name) else quote(name, safe="") for name in names)
    encoded = rest if rest.isascii() else quote(rest, safe=_PRINTABLE, encoding="latin-1")
    return Target(f"{upstream}?{encoded}" if encoded else upstream, keys[0] if keys else None)


def read_key(request: Request, target: Target) -> str | Refusal | None:
    """The text of the key that the request carries, be it one or not; None where there is none."""
    texts = request.values("apikey")
    if len(texts) > 1:
        return malformed("The header apikey is there more than once")
    texts += [target.key] if target.key is not None else []
    if len(set(texts)) > 1:
        return malformed("The API keys in header and query differ")
    return texts[0] if texts and texts[0] else None


def read_bearer(request: Request, key: str) -> str | Refusal | None:
    """The token of a user, or None where there is none: a bearer that is the key itself is no user."""
    values = request.values("authorization")
    if len(values) > 1:
        return malformed("The header Authorization is there more than once")
    if not values or not values[0].strip():
        return None
    scheme, _, token = values[0].strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer":
        return malformed("The header Authorization must be Bearer and a token")
    return None if token in ("", key) else token


def read_slug(host: str, domain: str) -> str | Refusal | None:
    """The slug that the host names: None for ``domain`` itself, which is everybody's.

    In a host's name ``-`` stands for ``_``, which certificates do not allow there.
    """
    name = host.lower().removesuffix(".")
    name = re.sub(r":[0-9]{1,5}\Z", "", name).removesuffix(".")
    if name == domain:
        return None
    label, dot, rest = name.partition(".")
    if not dot or rest != domain or not _HOST.fullmatch(label):
        return not_found()
    return label.replace("-", "_")


def _names(path: str) -> list[str] | Refusal:
    """The decoded names in a path behind the prefix: none, a table, or ``rpc`` and a function."""
    if path in (PREFIX, PREFIX + "/"):
        return []
    if not path.startswith(PREFIX + "/"):
        return not_found()
    if _BAD_ESCAPE.search(path):
        return malformed("The request's path is not encoded as it must be")
    names = []
    for part in path[len(PREFIX) + 1 :].split("/"):
        try:
            name = unquote_to_bytes(part.encode("latin-1")).decode()
        except UnicodeDecodeError:
            return malformed("The request's path is not UTF-8")
        # What is encoded twice, or decodes to a separator, would mean something else to whoever decodes once more.
        if name in (".", "..") or _BAD_IN_NAME.search(name):
            return malformed("The request's path holds characters that it must not")
        names.append(name)
    if "" in names or len(names) > 2 or (len(names) == 2 and names[0] != "rpc"):
        return not_found()
    return names


def _shows_names(query: str) -> bool:
    """Whether columns are asked for as a type that shows names of other tenants' roles, schemas and tables."""
    # PostgREST takes ; for & as well.
    parts = (part.partition("=") for part in re.split("[&;]", query))
    return any(
        unquote_plus(name) == "select" and _CAST_TO_NAMES.search(unquote_plus(value)) for name, _, value in parts
    )


def _without_keys(query: str) -> tuple[str, list[str]]:
    """The query without each ``apikey``, and their values."""
    # Another spelling of the name has an escape in it.
    if "%" not in query and "apikey" not in query:
        return query, []
    kept, keys = "", []
    # PostgREST takes ; for & as well.
    for separator, part in _PARTS.findall(query):
        name, _, value = part.partition("=")
        if unquote_plus(name) == "apikey":
            keys.append(unquote_plus(value))
        else:
            kept += (separator if kept else "") + part
    return kept, keys
