"""The public keys of tenants' users, read from the URLs that Tenants name.

A tenant chooses the URL and the answer, so both are bounded: HTTPS alone, no redirects, little text, little time, and
no address of this machine or of its link, where clouds keep their metadata. The answer is shown to nobody.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult

from vaultbrix.gateway.jwt import TokenKey, keys_of_jwks
from vaultbrix.runtime.addresses import Address, parse_address

log = structlog.get_logger(__name__)

LONGEST_TEXT = 65_536
SECONDS_PER_READ = 5.0
# How often a source is read while nobody asks, and at most when tokens come that no key fits.
SECONDS_BETWEEN_READS = 300.0
SECONDS_BETWEEN_ATTEMPTS = 30.0
# Keys of a source that cannot be read any more are good for so long.
SECONDS_GOOD = 3600.0
_READ_AT_ONCE = 8


class _NotRead(Exception):
    """Why a source has no keys for us."""


def is_forbidden(address: Address) -> bool:
    """Whether nothing may be read from there."""
    return (
        address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
        or address.is_reserved
    )  # fmt: skip


@dataclass
class _Source:
    keys: tuple[TokenKey, ...] = ()
    read_at: float = float("-inf")
    tried_at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class KeySets:
    """The keys of all sources, each as last read. ``clock`` is in seconds and never goes back."""

    def __init__(
        self,
        *,
        forbidden: Callable[[Address], bool] = is_forbidden,
        trust: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        seconds_per_read: float = SECONDS_PER_READ,
    ) -> None:
        self._forbidden = forbidden
        self._trust = trust
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=seconds_per_read)
        self._sources: dict[str, _Source] = {}
        self._slots = asyncio.Semaphore(_READ_AT_ONCE)

    def keys(self, url: str) -> tuple[TokenKey, ...]:
        """The keys of a source; none before it was read, and none once that is too long ago."""
        source = self._sources.get(url)
        return source.keys if source is not None and self._clock() - source.read_at < SECONDS_GOOD else ()

    async def refresh(self, url: str) -> bool:
        """Read a source again unless that was tried lately; whether it has other keys now. Waits for one that reads."""
        source = self._sources.setdefault(url, _Source())
        before = self.keys(url)
        async with source.lock:
            if self._clock() - source.tried_at >= SECONDS_BETWEEN_ATTEMPTS:
                source.tried_at = self._clock()
                try:
                    async with self._slots:
                        source.keys = keys_of_jwks(await self._read(url))
                    source.read_at = self._clock()
                except (_NotRead, ValueError) as error:
                    log.warning("keys of users were not read", url=url[:256], message=str(error))
        return self.keys(url) != before

    async def run(self, urls: Callable[[], Iterable[str]]) -> None:
        """Read all sources that are named now and then, and forget those that nobody names, until cancelled."""
        while True:
            named = set(urls())
            for url in self._sources.keys() - named:
                del self._sources[url]
            await asyncio.gather(*(self.refresh(url) for url in named if self._is_due(url)))
            await asyncio.sleep(1.0)

    def _is_due(self, url: str) -> bool:
        source = self._sources.get(url)
        return source is None or self._clock() - max(source.read_at, source.tried_at) >= SECONDS_BETWEEN_READS

    async def _read(self, url: str) -> bytes:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username is not None:
            raise _NotRead("a source is an https URL without a user")
        self._check_literal(parts.hostname)
        connector = aiohttp.TCPConnector(
            resolver=_Resolver(self._forbidden), ssl=self._trust if self._trust is not None else True, limit=1
        )
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=self._timeout, trust_env=False) as session,
                session.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as answer,
            ):
                if answer.status != 200:
                    raise _NotRead(f"the source answers {answer.status}")
                text = b""
                async for part in answer.content.iter_chunked(8192):
                    text += part
                    if len(text) > LONGEST_TEXT:
                        raise _NotRead(f"the source answers with more than {LONGEST_TEXT} bytes")
                return text
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _NotRead(f"the source does not answer: {type(error).__name__}") from None

    def _check_literal(self, host: str) -> None:
        # Asked of no resolver.
        try:
            address = ip_address(host)
        except ValueError:
            return
        if self._forbidden(parse_address(str(address))):
            raise _NotRead("nothing is read from that address")


class _Resolver(AbstractResolver):
    """Names to addresses, without those from which nothing may be read."""

    def __init__(self, forbidden: Callable[[Address], bool]) -> None:
        self._forbidden = forbidden
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """The addresses that may be asked. Raises OSError when there are none."""
        results = await self._resolver.resolve(host, port, family)
        usable = [result for result in results if not self._forbidden(parse_address(result["host"]))]
        if not usable:
            raise OSError("nothing is read from that address")
        return usable

    async def close(self) -> None:
        """Nothing is kept."""
        await self._resolver.close()
