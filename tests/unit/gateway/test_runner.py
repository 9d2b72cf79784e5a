"""Whether a PostgREST answers is asked again where whoever has its port accepts a connection and says nothing."""

import asyncio
import sys
from pathlib import Path

import pytest

from vaultbrix.gateway import runner as gateway_runner
from vaultbrix.gateway.known import ObjectKey
from vaultbrix.gateway.postgrest import Served
from vaultbrix.gateway.runner import Runner

TENANT = ("apps", "acme")
SERVED = Served(TENANT, "main", "tenant_acme", "host=127.0.0.1", 1000, "https://api.example.com")

# Listens where PostgREST tells that it is ready, and says so to who comes second.
SECOND_IS_ANSWERED = """#!{python}
import re, socket, sys
port = int(re.search('admin-server-port *= *"?([0-9]+)', open(sys.argv[1]).read())[1])
listening = socket.create_server(("127.0.0.1", port))
first, _ = listening.accept()
second, _ = listening.accept()
second.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
second.close()
listening.accept()
"""


def test_who_accepts_and_says_nothing_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "postgrest"
    program.write_text(SECOND_IS_ANSWERED.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(gateway_runner, "_ANSWER_SECONDS", 0.2)

    async def resolve(_: ObjectKey) -> Served:
        await asyncio.sleep(0)
        return SERVED

    async def play() -> bool:
        runner = Runner(program, tmp_path, b"s" * 32, resolve)
        running = asyncio.create_task(runner.run())
        try:
            return await runner.ensure(TENANT)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    assert asyncio.run(play())
