"""Keys of users from a real HTTPS server: bounded, cached, rotated, and kept for a while when it is away."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from tests.harness.issuer import Issuer
from tests.harness.known_keys import OTHER_RSA_KEY, RSA_KEY, jwks

from vaultbrix.gateway.jwks import SECONDS_BETWEEN_ATTEMPTS, SECONDS_GOOD, KeySets
from vaultbrix.runtime.addresses import Address


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


def during(issuer: Issuer, test: Callable[[KeySets], Awaitable[None]]) -> None:
    async def main() -> None:
        runner = await issuer.start()
        try:
            await test(issuer.key_sets())
        finally:
            await runner.cleanup()

    asyncio.run(main())


async def becomes(holds: Callable[[], bool]) -> bool:
    for _ in range(200):
        if holds():
            return True
        await asyncio.sleep(0.05)
    return False


def names(sets: KeySets, url: str) -> list[str | None]:
    return [key.kid for key in sets.keys(url)]


def test_keys_are_read_rotated_and_kept_while_the_issuer_is_away(issuer: Issuer) -> None:
    async def test(sets: KeySets) -> None:
        assert sets.keys(issuer.url) == ()
        assert await sets.refresh(issuer.url)
        assert names(sets, issuer.url) == ["k0"]
        issuer.document = jwks(RSA_KEY, OTHER_RSA_KEY)
        # However many tokens come that no key fits, the issuer is asked no more than now and then.
        assert not any(await asyncio.gather(*(sets.refresh(issuer.url) for _ in range(50))))
        assert issuer.reads == 1
        issuer.now += SECONDS_BETWEEN_ATTEMPTS
        assert any(await asyncio.gather(*(sets.refresh(issuer.url) for _ in range(50))))
        assert (issuer.reads, names(sets, issuer.url)) == (2, ["k0", "k1"])

        async def away() -> web.StreamResponse:
            return web.Response(status=503)

        issuer.answer = away
        issuer.now += SECONDS_GOOD - 1
        assert not await sets.refresh(issuer.url)
        assert names(sets, issuer.url) == ["k0", "k1"]
        issuer.now += 1
        assert sets.keys(issuer.url) == ()

    during(issuer, test)


async def large() -> web.StreamResponse:
    return web.Response(body=b'{"keys": []' + b" " * 100_000 + b"}")


async def elsewhere() -> web.StreamResponse:
    raise web.HTTPFound("/other")


async def slow() -> web.StreamResponse:
    await asyncio.sleep(4)
    return web.Response(body=jwks(RSA_KEY))


async def no_keys() -> web.StreamResponse:
    return web.Response(body=b"<html>")


@pytest.mark.parametrize("answer", [large, elsewhere, slow, no_keys])
def test_an_answer_that_is_not_as_it_must_be_is_no_key(
    issuer: Issuer, answer: Callable[[], Awaitable[web.StreamResponse]]
) -> None:
    async def test(sets: KeySets) -> None:
        issuer.answer = answer
        assert not await sets.refresh(issuer.url)
        assert issuer.reads == 1

    during(issuer, test)


def test_nothing_is_read_without_tls_or_from_where_nobody_may_ask(issuer: Issuer) -> None:
    async def test(sets: KeySets) -> None:
        port = issuer.url.split(":")[2]
        for url in (
            issuer.url.replace("https", "http"), f"https://u:p@localhost:{port}", "file:///etc/passwd", "", "https://",
        ):  # fmt: skip
            assert not await sets.refresh(url)
        asked: list[str] = []
        careful = KeySets(trust=issuer.trust, clock=lambda: issuer.now)
        for host in ("localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"):
            assert not await careful.refresh(f"https://{host}:{port}")

        def forbidden(address: Address) -> bool:
            asked.append(str(address))
            return True

        assert not await KeySets(forbidden=forbidden, trust=issuer.trust).refresh(issuer.url)
        assert "127.0.0.1" in asked
        assert issuer.reads == 0

    during(issuer, test)


def test_a_certificate_of_nobody_is_refused(issuer: Issuer) -> None:
    async def test(_: KeySets) -> None:
        assert not await KeySets(forbidden=lambda _: False).refresh(issuer.url)
        assert issuer.reads == 0

    during(issuer, test)


def test_sources_that_nobody_names_any_more_are_forgotten(issuer: Issuer) -> None:
    async def test(sets: KeySets) -> None:
        named = [issuer.url]
        task = asyncio.create_task(sets.run(lambda: named))
        assert await becomes(lambda: names(sets, issuer.url) == ["k0"])
        named.clear()
        assert await becomes(lambda: sets.keys(issuer.url) == ())
        task.cancel()

    during(issuer, test)
