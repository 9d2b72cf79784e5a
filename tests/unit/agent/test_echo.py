import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from vaultbrix.access.echo import ask
from vaultbrix.agent.echo import BACKLOG, echo
from vaultbrix.runtime.errors import Blocked, Transient


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reset(port: int) -> None:
    """A connection that is reset as soon as it is there: linger with no time."""
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


def served(work: Callable[[int], Awaitable[None]]) -> None:
    """Run the work beside an echo on a free port."""

    async def main() -> None:
        port = free_port()
        async with echo(port):
            await work(port)

    asyncio.run(main())


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_a_caller_hears_its_address_as_one_line(host: str, address: str) -> None:
    async def work(port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        assert await reader.read() == f"{address}\n".encode()
        writer.close()
        assert str(await ask(host, port)) == address

    served(work)


def test_callers_that_stay_talk_or_vanish_keep_nobody_waiting() -> None:
    async def work(port: int) -> None:
        held = []
        for _ in range(2 * BACKLOG):
            staying = await asyncio.open_connection("127.0.0.1", port)
            staying[1].write(b"GET / HTTP/1.1\r\n" * 100)
            held.append(staying)
        for _ in range(BACKLOG):
            await asyncio.to_thread(reset, port)
        assert str(await ask("127.0.0.1", port)) == "127.0.0.1"
        for _, writer in held:
            writer.close()

    served(work)


def test_a_port_that_is_taken_stops_nothing_else() -> None:
    async def work(port: int) -> None:
        async with echo(port):
            assert str(await ask("127.0.0.1", port)) == "127.0.0.1"

    served(work)


def test_without_a_port_nothing_listens_and_the_end_frees_it() -> None:
    async def main() -> None:
        port = free_port()
        async with echo(0), echo(port):
            pass
        with pytest.raises(Transient, match=str(port)):
            await ask("127.0.0.1", port)

    asyncio.run(main())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"\xff\xfe", b"203.0.113.7 or so", b"9" * 99])
def test_a_server_that_names_no_address_is_no_echo(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(answer)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            with pytest.raises(Blocked, match="names no address"):
                await ask("127.0.0.1", server.sockets[0].getsockname()[1])

    asyncio.run(main())
