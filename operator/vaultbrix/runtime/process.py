"""What all long-running sub-commands share: logs, signals, and an end that names its cause."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from vaultbrix.runtime.errors import Expected, LeaseLost, Stopped

log = structlog.get_logger(__name__)


def configure_logging() -> None:
    """One JSON object per line on standard error; other libraries only from warnings up."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without local variables: they may hold passwords.
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def run(
    main: Coroutine[Any, Any, None], *, new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> None:
    """Run until it ends, or until SIGTERM or SIGINT cancels it. Exits 1 with a line in the log after a failure."""
    configure_logging()
    # What is loaded stays. Looking through it would hold everything up for 60 ms now and then, the end of a rule, too.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_until_signalled(main))
    except* Stopped:
        log.info("stopped")
    except* (Expected, LeaseLost) as group:
        for error in group.exceptions:
            log.error("ended", message=str(error))
        # At once: whatever still ran must not go on without the Lease.
        os._exit(1)


async def _until_signalled(main: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("stopped")
