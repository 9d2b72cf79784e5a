"""Splits an answer that does not end, such as a watch, into its lines."""

from collections.abc import AsyncIterator

import aiohttp


async def lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of a stream, of any length, without their ends."""
    # aiohttp's own iteration by lines refuses those over 128 KiB, and an object may have more.
    pending = bytearray()
    async for chunk in stream.iter_any():
        head, *rest = chunk.split(b"\n")
        pending += head
        for part in rest:
            yield bytes(pending)
            pending = bytearray(part)
