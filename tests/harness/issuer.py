"""An HTTPS server that publishes the keys of users, and that a test can have answer something else."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from tests.harness.known_keys import RSA_KEY, jwks

from vaultbrix.gateway.jwks import KeySets
from vaultbrix.install import certificates


class Issuer:
    """Serves ``document`` at ``url``, or what ``answer`` says; ``reads`` counts. ``now`` is its readers' clock."""

    def __init__(self, folder: Path) -> None:
        issued = certificates.authority("tests", datetime.now(UTC))
        made = certificates.server(issued, ["localhost"], datetime.now(UTC))
        (folder / "tls.crt").write_text(made.certificate)
        (folder / "tls.key").write_text(made.key)
        self._server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._server_context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        self.trust = ssl.create_default_context(cadata=issued.certificate)
        self.document = jwks(RSA_KEY)
        self.answer: Callable[[], Awaitable[web.StreamResponse]] | None = None
        self.reads = 0
        self.url = ""
        self.now = 1000.0

    def key_sets(self) -> KeySets:
        """Keys of sources, by the time ``now``, which the test sets."""
        return KeySets(forbidden=lambda _: False, trust=self.trust, clock=lambda: self.now, seconds_per_read=2)

    async def _serve(self, _: web.Request) -> web.StreamResponse:
        self.reads += 1
        return await self.answer() if self.answer is not None else web.Response(body=self.document)

    async def start(self) -> web.AppRunner:
        """Serve in the loop that runs, until the runner is cleaned up."""
        application = web.Application()
        application.add_routes([web.get("/{tail:.*}", self._serve)])
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._server_context)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"https://localhost:{port}/jwks"
        return runner


@contextlib.contextmanager
def in_a_thread(issuer: Issuer) -> Iterator[Issuer]:
    """Serve beside the test, until the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(issuer.start(), loop).result(30)
    try:
        yield issuer
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
