"""Forwards a port of a Pod through the API server to a port of this machine, as ``kubectl port-forward`` does.

Each connection to the local port gets a forward of its own, so that one that ends takes no other with it.
"""

import asyncio
import contextlib
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import aiohttp

from vaultbrix.api.conditions import Reason
from vaultbrix.kube.client import Kube
from vaultbrix.kube.resources import PODS
from vaultbrix.runtime.errors import Blocked, Expected, Transient

LOCALHOST = "127.0.0.1"

# Subprotocol of WebSockets that carry channels, which kubelets of all releases in support speak.
_CHANNELS = "v4.channel.k8s.io"
# Channels of one port in it; the first message of each is the port's number
# (k8s.io/kubelet/pkg/cri/streaming/portforward, websocket.go).
_DATA, _ERROR = 0, 1
_CHUNK = 65536


class PortForward:
    """Listens at ``LOCALHOST`` and ``port`` while it is entered.

    ``problem`` is why the last connection could not be forwarded, None where it could.
    """

    def __init__(self, kube: Kube, namespace: str, pod: str, pod_port: int) -> None:
        self._kube = kube
        self._namespace = namespace
        self._pod = pod
        self._pod_port = pod_port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        self.problem: str | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, LOCALHOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            self.problem = None
            socket = await _open(self._kube, self._namespace, self._pod, self._pod_port)
            try:
                await self._join(socket, reader, writer)
            finally:
                await socket.close()
        except asyncio.CancelledError:
            # At the end of all: nobody waits for this task, and asyncio would print that it was cancelled.
            return
        except Expected as error:
            self.problem = error.message
        except (OSError, aiohttp.ClientError) as error:
            self.problem = f"the connection through the API server ended: {error}"
        finally:
            self._connections.discard(task)
            writer.close()

    async def _join(
        self, socket: aiohttp.ClientWebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry bytes both ways until either end closes."""
        sending = asyncio.create_task(_send(socket, reader))
        try:
            begun: set[int] = set()
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    continue
                channel, data = message.data[0], message.data[1:]
                if channel not in begun:
                    begun.add(channel)
                    data = data[2:]
                if channel == _ERROR and data:
                    self.problem = data.decode(errors="replace").strip()
                    break
                if channel == _DATA and data:
                    writer.write(data)
                    await writer.drain()
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, aiohttp.ClientError):
                await sending


async def _send(socket: aiohttp.ClientWebSocketResponse, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_CHUNK):
        await socket.send_bytes(bytes([_DATA]) + data)
    await socket.close()


async def _open(kube: Kube, namespace: str, pod: str, port: int) -> aiohttp.ClientWebSocketResponse:
    """A WebSocket with the channels of one port of a Pod; the caller closes it. Raises Expected."""
    api = await kube.api()
    path = PODS.path(namespace, pod, "portforward")
    headers: dict[str, str] = {}
    queries = [("ports", str(port))]
    await api.update_params_for_auth(headers, queries, ["BearerToken"], path, "GET", None)
    rest = api.rest_client
    if rest.pool_manager is None:
        rest.pool_manager = rest._create_pool_manager()  # It makes one only with its first request.
    try:
        socket: aiohttp.ClientWebSocketResponse = await rest.pool_manager.ws_connect(
            f"{api.configuration.host}{path}?{urlencode(queries)}",
            headers=headers,
            protocols=(_CHANNELS,),
            proxy=api.configuration.proxy,
            max_msg_size=0,
        )
    except aiohttp.WSServerHandshakeError as error:
        if error.status == HTTPStatus.FORBIDDEN:
            raise Blocked(
                Reason.FORBIDDEN,
                f"you may not forward a port of Pod {namespace}/{pod}; ask for verbs get and create on "
                f"pods/portforward in namespace {namespace}",
            ) from None
        text = f"the port of Pod {namespace}/{pod} cannot be forwarded: the API server answers {error.status}"
        raise Transient(Reason.UNREACHABLE, text) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Transient(Reason.UNREACHABLE, f"Kubernetes API: {type(error).__name__}") from None
    return socket
