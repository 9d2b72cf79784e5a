"""Runs a PostgREST for each tenant that is asked for, and ends those that nobody asks for any more."""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from vaultbrix.gateway.known import ObjectKey
from vaultbrix.gateway.postgrest import Served, configuration, socket_name
from vaultbrix.postgres.connect import SCRAM
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

# A request waits for a start so long, and those after it are refused at once, until it answers.
START_SECONDS = 5.0
LONGEST_START_SECONDS = 60.0
IDLE_SECONDS = 600.0
MOST = 300
# Memory of one process, in bytes (RLIMIT_DATA). An answer is held whole, about four times over, and its size is the
# tenant's choice; the machine's or the container's memory is everybody's.
MEMORY = 256 * 1024 * 1024
# What changes one after the other is read once; and whoever sends notices without end, which any tenant can, has a
# schema read no more often than this.
DEBOUNCE_SECONDS = 0.2
READ_AGAIN_SECONDS = 1.0
_LONGEST_LOGGED = 500
_PR_SET_PDEATHSIG = 1
# Loaded here, since little may be done between fork and exec.
_LIBC = ctypes.CDLL(None)
_STOP_SECONDS = 5.0
_ANSWER_SECONDS = 2.0
_PROBE_SECONDS = 0.02

Resolve = Callable[[ObjectKey], Awaitable[Served | None]]


class _Running:
    """One process, from its start to its end."""

    def __init__(self, served: Served, process: asyncio.subprocess.Process, files: tuple[Path, ...]) -> None:
        self.served = served
        self.process = process
        self.used_at = time.monotonic()
        self.ready = False
        self.starting: asyncio.Task[None] | None = None
        self.read_at = time.monotonic()
        self.reload: asyncio.TimerHandle | None = None
        self._files = files

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    @property
    def answers(self) -> bool:
        return self.ready and self.alive

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def stop(self) -> None:
        if self.reload is not None:
            self.reload.cancel()
        if self.starting is not None and self.starting is not asyncio.current_task():
            self.starting.cancel()
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.process.wait()
        for file in self._files:
            file.unlink(missing_ok=True)


class Runner:
    """The processes of one gateway.

    ``resolve`` tells what a tenant's PostgREST is to be run for, None for a tenant that is not served; it raises
    Expected where that cannot be known now. ``secret`` is what the gateway signs its tokens with.
    """

    def __init__(
        self, program: Path, folder: Path, secret: bytes, resolve: Resolve, *,
        idle_seconds: float = IDLE_SECONDS, most: int = MOST,
    ) -> None:  # fmt: skip
        self._program = program
        self._folder = folder
        self._secret = secret
        self._resolve = resolve
        self._idle_seconds = idle_seconds
        self._most = most
        self._running: dict[ObjectKey, _Running] = {}
        self._locks: dict[ObjectKey, asyncio.Lock] = {}
        self._failures: dict[ObjectKey, tuple[int, float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.started: Callable[[str], None] = lambda server: None

    def __len__(self) -> int:
        return len(self._running)

    async def ensure(self, tenant: ObjectKey) -> bool:
        """Have the tenant's PostgREST answer; False where it does not within START_SECONDS."""
        running = self._running.get(tenant)
        if running is not None and running.answers:
            running.used_at = time.monotonic()
            return True
        async with self._locks.setdefault(tenant, asyncio.Lock()):
            running = self._running.get(tenant)
            if running is not None and running.alive:
                # Its start takes long, as on a busy machine: to begin anew would take longer.
                return running.answers
            _, not_before = self._failures.get(tenant, (0, 0.0))
            if time.monotonic() < not_before:
                return False
            try:
                return await self._start(tenant)
            except (Expected, OSError) as error:
                self._note_failure(tenant, str(error))
            return False

    def _note_failure(self, tenant: ObjectKey, message: str) -> None:
        failures = self._failures.get(tenant, (0, 0.0))[0] + 1
        self._failures[tenant] = (failures, time.monotonic() + pause_after(failures, 0.0))
        log.warning("a tenant is not served", tenant="/".join(tenant), message=message)

    def tenant_changed(self, tenant: ObjectKey) -> None:
        """Have a process that is run for something else than it should be ended; it is started again when needed."""
        self._failures.pop(tenant, None)
        if tenant in self._running:
            self._spawn(self._compare(tenant))

    def server_changed(self, server: str) -> None:
        """As ``tenant_changed``, for all tenants of a server."""
        for tenant, running in list(self._running.items()):
            if running.served.server == server:
                self.tenant_changed(tenant)

    def schema_changed(self, server: str, schema: str | None) -> None:
        """Have a schema of a server read again, or all of them."""
        now = time.monotonic()
        for running in self._running.values():
            served = running.served
            if served.server == server and schema in (None, served.schema) and running.reload is None:
                wait = max(DEBOUNCE_SECONDS, running.read_at + READ_AGAIN_SECONDS - now)
                running.reload = asyncio.get_running_loop().call_later(wait, self._read_again, running)

    async def run(self) -> None:
        """End what nobody uses, until cancelled; then end all."""
        try:
            while True:
                await asyncio.sleep(min(30.0, self._idle_seconds / 4))
                unused_since = time.monotonic() - self._idle_seconds
                for tenant, running in list(self._running.items()):
                    if running.used_at < unused_since or not running.alive:
                        await self._stop(tenant)
        finally:
            await asyncio.gather(*(running.stop() for running in self._running.values()), return_exceptions=True)

    async def _start(self, tenant: ObjectKey) -> bool:
        await self._stop(tenant)
        served = await self._resolve(tenant)
        if served is None:
            self._note_failure(tenant, "it is not to be served")
            return False
        if len(self._running) >= self._most:
            await self._stop(min(self._running, key=lambda name: self._running[name].used_at))
        name, port = socket_name(tenant), _free_port()
        path, file = self._folder / f"{name}.socket", self._folder / f"{name}.conf"
        path.unlink(missing_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as content:
            content.write(configuration(served, socket=str(path), secret=self._secret, admin_port=port))
        process = await asyncio.create_subprocess_exec(
            self._program, file, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env={"PGREQUIREAUTH": SCRAM}, start_new_session=True, preexec_fn=_confine,
        )  # fmt: skip
        running = self._running[tenant] = _Running(served, process, (path, file))
        self._spawn(_log_errors(tenant, process))
        self.started(served.server)
        running.starting = asyncio.create_task(self._await_ready(tenant, running, port))
        await asyncio.wait({running.starting}, timeout=START_SECONDS)
        return running.answers

    async def _await_ready(self, tenant: ObjectKey, running: _Running, port: int) -> None:
        if await _ready(port, running.process):
            running.ready = True
            self._failures.pop(tenant, None)
        elif self._running.get(tenant) is running:
            self._note_failure(tenant, "PostgREST does not become ready")
            await self._stop(tenant)

    async def _compare(self, tenant: ObjectKey) -> None:
        try:
            served = await self._resolve(tenant)
        except Expected:
            # What it was run for holds until something else is known.
            return
        running = self._running.get(tenant)
        if running is not None and running.served != served:
            await self._stop(tenant)

    async def _stop(self, tenant: ObjectKey) -> None:
        running = self._running.pop(tenant, None)
        if running is not None:
            await running.stop()

    def _read_again(self, running: _Running) -> None:
        running.reload, running.read_at = None, time.monotonic()
        running.signal(signal.SIGUSR1)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _confine() -> None:
    # Whose tokens it accepts is gone with the gateway (prctl(2), PR_SET_PDEATHSIG).
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Its runtime reserves a terabyte of addresses, so that RLIMIT_AS would not do.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


async def _ready(port: int, process: asyncio.subprocess.Process) -> bool:
    """Whether PostgREST has read the schema within LONGEST_START_SECONDS."""
    deadline = time.monotonic() + LONGEST_START_SECONDS
    while time.monotonic() < deadline and process.returncode is None:
        # Whoever has the port may accept a connection and say nothing.
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                if await _says_ready(port):
                    return True
        await asyncio.sleep(_PROBE_SECONDS)
    return False


async def _says_ready(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /ready HTTP/1.0\r\n\r\n")
        return b" 200 " in await reader.readline()
    finally:
        writer.close()


async def _log_errors(tenant: ObjectKey, process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    while True:
        try:
            line = await process.stderr.readline()
        except ValueError:
            # A line that is longer than a StreamReader takes.
            continue
        if not line:
            return
        text = line.decode(errors="replace").rstrip()[:_LONGEST_LOGGED]
        log.info("postgrest", tenant="/".join(tenant), message=text)


def _free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
