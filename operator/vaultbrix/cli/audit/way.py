"""How a command of ``vaultbrix audit`` gets to the store: --store, libpq's environment, or through the cluster."""

import asyncio
import contextlib
import functools
import inspect
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vaultbrix.cli.audit.located import Located
    from vaultbrix.kube.forward import PortForward

Store = Annotated[
    str, typer.Option("--store", metavar="CONNINFO", help="The store as libpq takes it: a conninfo or a URI.")
]
Of = Annotated[
    str, typer.Option("--of", metavar="SERVER", help="PostgresServer whose store is asked, where there are several.")
]
Context = Annotated[
    str, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig. Default: the current one.")
]

# Whoever sets one of these says by libpq's means where the store is.
_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGUSER")


@dataclass(frozen=True)
class Way:
    """The options as they were given; all empty: the environment, or else the cluster."""

    store: str = ""
    server: str = ""
    context: str = ""

    @property
    def by_cluster(self) -> bool:
        """Whether the store is looked for in the cluster."""
        named = bool(self.server or self.context)
        return not self.store and (named or not any(name in os.environ for name in _LIBPQ))


_WAY: ContextVar[Way] = ContextVar("way")


def asks_store(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that say how to get to the store."""
    options = {"store": Store, "of": Of, "context": Context}

    @functools.wraps(command)
    def asking(*, store: str = "", of: str = "", context: str = "", **given: Any) -> None:
        _WAY.set(Way(store, of, context))
        command(**given)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=option)
        for name, option in options.items()
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    asking.__signature__ = signature.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
    asking.__annotations__ = {**command.__annotations__, **options}
    return asking


def way() -> Way:
    """How the command that runs gets to the store."""
    return _WAY.get(Way())


@contextlib.contextmanager
def through_cluster(chosen: Way) -> Iterator[tuple[dict[str, str], Callable[[], str | None]]]:
    """Parameters of libpq for the store, while its port is forwarded; and why the last connection was not.

    Raises Refused and Expected where the store is not found, each with the remedy.
    """
    with tempfile.TemporaryDirectory(prefix="vaultbrix-") as directory, _Forwarding(chosen) as forwarding:
        login = forwarding.located.login
        ca = Path(directory) / "ca.crt"
        ca.write_text(login["ca.crt"])
        parameters = {
            "host": login["host"],
            "port": login["port"],
            "dbname": login["dbname"],
            "user": login["username"],
            "password": login["password"],
            "sslmode": "verify-full",
            "sslrootcert": str(ca),
        }
        if forwarding.forward is not None:
            # By the name that its certificate is for, whatever it resolves to here.
            parameters |= {"hostaddr": "127.0.0.1", "port": str(forwarding.forward.port)}
        yield parameters, lambda: forwarding.forward.problem if forwarding.forward else None


class _Forwarding:
    """Carries connections in a thread of its own while the command waits for the store."""

    located: "Located"
    forward: "PortForward | None" = None

    def __init__(self, chosen: Way) -> None:
        self._way = chosen
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Forwarding":
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._over is not None:
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(5)

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _work(self) -> None:
        from vaultbrix.cli.audit.located import locate  # noqa: PLC0415
        from vaultbrix.kube.client import Kube  # noqa: PLC0415
        from vaultbrix.kube.forward import PortForward  # noqa: PLC0415

        kube = Kube("vaultbrix-cli", context=self._way.context)
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        try:
            self.located = await locate(kube, self._way.server)
            at = self.located.at
            if at is None:
                self._ready.set()
                await self._over.wait()
                return
            async with PortForward(kube, at.namespace, at.pod, at.port) as self.forward:
                self._ready.set()
                await self._over.wait()
        finally:
            await asyncio.shield(kube.close())
