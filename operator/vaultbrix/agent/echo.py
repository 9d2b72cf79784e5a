"""Answers each caller with the address that it comes from, so that a person can ask for a rule for that address.

Runs in the agent, which must never wait: one connection at a time is accepted, answered without waiting and closed.
Nothing is read, nothing is kept, and a flood of callers waits in the kernel, which drops what is too much.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from vaultbrix.runtime.addresses import parse_address

log = structlog.get_logger(__name__)

# How many callers wait in the kernel, and the pause that leaves the event loop to the enforcement of rules.
BACKLOG = 16
PAUSE_SECONDS = 0.005
PAUSE_AFTER_ERROR_SECONDS = 1.0


@asynccontextmanager
async def echo(port: int) -> AsyncIterator[None]:
    """Answer on all addresses while the context is open; port 0 answers nowhere.

    A port that is taken is logged and stops nothing: rules matter more.
    """
    listener = _listen(port) if port else None
    task = asyncio.create_task(_serve(listener)) if listener is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if listener is not None:
            listener.close()


def _listen(port: int) -> socket.socket | None:
    both = socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if both else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=both,
        )
    except OSError as error:
        log.error("no echo", port=port, message=str(error.strerror))
        return None
    listener.setblocking(False)
    return listener


async def _serve(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            caller, address = await loop.sock_accept(listener)
        except OSError:
            # A caller that is gone already, or no descriptors left.
            await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)
            continue
        with caller:
            _answer(caller, str(address[0]))
        await asyncio.sleep(PAUSE_SECONDS)


def _answer(caller: socket.socket, address: str) -> None:
    try:
        # The line fits the empty buffer of a new connection, so this never waits; the kernel sends it on.
        caller.send(f"{parse_address(address)}\n".encode())
        caller.shutdown(socket.SHUT_WR)
    except (OSError, ValueError):
        return
