"""``vaultbrix proxy``: nginx in front of the gateway beside it, with certificates that are read again.

nginx that ends ends the process: whoever runs it starts both again.
"""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Blocked, Transient
from vaultbrix.runtime.files import replace_file
from vaultbrix.runtime.templates import render

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
# Requests that are under way may end.
_DRAIN_SECONDS = 25.0

_Signature = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Options:
    """Command line of the proxy. ``sockets`` is the gateway's ``--folder``; ``listen`` is an address with its port.

    Without a certificate there is no TLS, for a place behind something else that ends it.
    """

    nginx: Path
    folder: Path
    listen: str
    gateway: Path
    sockets: Path
    certificate: Path | None
    key: Path | None
    trusted_proxies: Sequence[str]
    max_body: str
    access_log: str = "/dev/stdout"


def configuration(options: Options) -> str:
    """The text of nginx.conf. Raises Blocked for a certificate without its key."""
    if (options.certificate is None) != (options.key is None):
        raise Blocked(Reason.NOT_SUPPORTED, "--certificate and --key go together")
    return render(
        "gateway/nginx.conf.j2",
        folder=options.folder,
        listen=options.listen,
        tls={"certificate": options.certificate, "key": options.key} if options.certificate is not None else None,
        gateway=f"unix:{options.gateway}",
        sockets=options.sockets,
        trusted_proxies=options.trusted_proxies,
        max_body=options.max_body,
        access_log=options.access_log,
    )


async def main(options: Options) -> None:
    """Until cancelled. Raises Blocked where nginx does not take the configuration, Transient when it ends."""
    file = options.folder / "nginx.conf"
    replace_file(file, configuration(options).encode())
    command = (str(options.nginx), "-c", str(file), "-e", "stderr")
    if not await _accepts(command):
        raise Blocked(Reason.NOT_SUPPORTED, "nginx does not take its configuration; see above")
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_watch_certificate(options, command, process))
            group.create_task(_end(process))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await process.wait()
        if process.returncode is None:
            process.kill()


async def _end(process: asyncio.subprocess.Process) -> None:
    code = await process.wait()
    raise Transient(Reason.UNREACHABLE, f"nginx has ended with {code}")


async def _watch_certificate(options: Options, command: Sequence[str], process: asyncio.subprocess.Process) -> None:
    files = [file for file in (options.certificate, options.key) if file is not None]
    read = _signature(files)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        seen = _signature(files)
        if seen == read:
            continue
        # Certificate and key are two files, and may change one after the other.
        if await _accepts(command):
            process.send_signal(signal.SIGHUP)
            read = seen
            log.info("the certificate is read again")
        else:
            log.warning("the new certificate cannot be used; nginx goes on with the old one")


async def _accepts(command: Sequence[str]) -> bool:
    test = await asyncio.create_subprocess_exec(*command, "-t", "-q", stdin=asyncio.subprocess.DEVNULL)
    return await test.wait() == 0


def _signature(files: Sequence[Path]) -> _Signature:
    """What changes with the content of files; a Secret's volume replaces what the links lead to."""
    seen = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            seen.append((0, 0, 0))
        else:
            seen.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(seen)
