"""A server that does not prove that it knows the password's verifier gets no password, and no session."""

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from vaultbrix.api.conditions import Reason
from vaultbrix.ddl.job.run import Order
from vaultbrix.ddl.job.run import _connect as connect_as_job
from vaultbrix.postgres.connect import Target, connect, conninfo, of_person
from vaultbrix.runtime.errors import Expected

PASSWORD = "the-admin's-password"

# What it asks for (PostgreSQL 55.7, Authentication*): the password in clear, its MD5, or nothing.
REQUESTS = {
    "clear text": struct.pack("!ciI", b"R", 8, 3),
    "md5": struct.pack("!ciI4s", b"R", 12, 5, b"salt"),
    "nothing": struct.pack("!ciI", b"R", 8, 0) + struct.pack("!cic", b"Z", 5, b"I"),
}
NOTHING = (b"", struct.pack("!ci", b"X", 4))


def given_to(request_: bytes, caller: Callable[[int], None]) -> bytes:
    """What a server gets that asks for that, once ``caller`` has called its port."""
    received = b""

    async def greedy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        await reader.readexactly(length - 4)
        writer.write(request_)
        received = await reader.read()
        writer.close()

    async def call() -> None:
        server = await asyncio.start_server(greedy, "127.0.0.1", 0)
        async with server:
            await asyncio.to_thread(caller, server.sockets[0].getsockname()[1])

    asyncio.run(call())
    return received


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_it_is_refused(request_: bytes) -> None:
    async def call(port: int) -> None:
        target = Target("127.0.0.1", port, "postgres", "postgres", PASSWORD, ssl_mode="disable")
        with pytest.raises(Expected) as error:
            async with connect(target):
                pass
        assert error.value.reason is Reason.AUTHENTICATION_FAILED
        assert "authentication method requirement" in error.value.message
        assert PASSWORD not in error.value.message

    assert given_to(request_, lambda port: asyncio.run(call(port))) in NOTHING


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_job_refuses_it(request_: bytes, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "ca.crt").touch()

    def call(port: int) -> None:
        order = Order("127.0.0.1", port, "postgres", "disable", "job", "tenant_acme", "", 1, 1, "", tmp_path)
        with pytest.raises(psycopg.OperationalError, match="authentication method requirement"):
            connect_as_job(order)

    assert given_to(request_, call) in NOTHING


@pytest.mark.parametrize("request_", [REQUESTS["clear text"], REQUESTS["md5"]], ids=["clear text", "md5"])
def test_a_person_who_goes_without_tls_gives_it_nothing_either(request_: bytes) -> None:
    def call(port: int) -> None:
        environment = {"PGSSLMODE": "disable"}
        with pytest.raises(psycopg.OperationalError, match="authentication method requirement"):
            psycopg.connect(
                of_person(environment), host="127.0.0.1", port=port, user="jane", password=PASSWORD, sslmode="disable"
            )

    assert given_to(request_, call) in NOTHING


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_libpq_before_16_refuses_it_too(request_: bytes) -> None:
    def call(port: int) -> None:
        target = Target("127.0.0.1", port, "postgres", "rest", PASSWORD, ssl_mode="disable", any_libpq=True)
        with pytest.raises(psycopg.OperationalError, match="channel binding"):
            psycopg.connect(conninfo(target))

    assert given_to(request_, call) in NOTHING
