"""Clients in a network namespace: say when they got in, and when they were thrown out (seconds since the epoch).

Reads one JSON object a line: ``session`` connects to PostgreSQL until it is let in and then holds the session;
``door`` tries TCP connections from a source address until one is refused, with one held open beside it.
"""

import asyncio
import json
import socket
import sys
import time
from typing import Any

import psycopg

PAUSE = 0.001


def tell(number: int, event: str) -> None:
    print(json.dumps({"id": number, "event": event, "at": time.time()}), flush=True)


async def session(number: int, conninfo: str) -> None:
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(conninfo)
            break
        except psycopg.OperationalError:
            await asyncio.sleep(PAUSE)
    tell(number, "in")
    try:
        await connection.execute("SELECT pg_sleep(3600)")
    except psycopg.Error:
        tell(number, "out")
    finally:
        await connection.close()


async def door(number: int, source: str, host: str, port: int) -> None:
    held = await _connect(source, host, port)
    tell(number, "in")
    watching = asyncio.create_task(_broken(number, held))
    while True:
        try:
            (await _connect(source, host, port)).close()
        except OSError:
            break
        await asyncio.sleep(0.01)
    tell(number, "refused")
    await watching


async def _connect(source: str, host: str, port: int) -> socket.socket:
    opened = socket.socket()
    opened.setblocking(False)
    opened.bind((source, 0))
    try:
        await asyncio.get_running_loop().sock_connect(opened, (host, port))
    except OSError:
        opened.close()
        raise
    return opened


async def _broken(number: int, held: socket.socket) -> None:
    """Send a byte now and then, of a start-up packet that never ends, until the connection is reset."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(held, b"\0\0\x20\0")
    try:
        while True:
            await loop.sock_sendall(held, b"x")
            await asyncio.sleep(0.02)
    except OSError:
        tell(number, "broken")


async def main() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running = set()
    while line := await reader.readline():
        wanted: dict[str, Any] = json.loads(line)
        work = {"session": session, "door": door}[wanted.pop("do")]
        task = asyncio.create_task(work(**wanted))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main())
