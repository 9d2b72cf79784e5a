"""Checks that the agent repeats: what is there is compared with what should be."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

# Reading the kernel's whole set takes as long as it is large; at most this share of the time is spent on a check.
MOST_OF_THE_TIME = 0.01


async def every(seconds: float, check: Callable[[], Awaitable[None]]) -> None:
    """Check that often, or less often where it takes long; a failure is logged, and the next check is made."""
    pause = seconds
    while True:
        await asyncio.sleep(pause)
        begun = time.monotonic()
        try:
            await check()
        except Exception:
            log.exception("unexpected error")
        pause = max(seconds, (time.monotonic() - begun) / MOST_OF_THE_TIME)
