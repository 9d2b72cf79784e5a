"""TLS with a PostgreSQL server up to its certificate, without a login (message flow: PostgreSQL 55.2.10)."""

import asyncio
import ssl
import struct

PATIENCE_SECONDS = 5.0

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


async def handshake(host: str, port: int, context: ssl.SSLContext, *, name: str) -> bytes:
    """Return the server's certificate (DER), checked as ``context`` says, with ``name`` as the server's.

    Raises OSError, of which ssl.SSLError is one, when the server does not answer, or not as it should.
    """
    writer = None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_SSL_REQUEST)
            if await reader.readexactly(1) != b"S":
                raise ConnectionError("the server does not speak TLS")
            await writer.start_tls(context, server_hostname=name)
            return bytes(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    except TimeoutError:
        raise ConnectionError("no answer") from None
    except asyncio.IncompleteReadError:
        raise ConnectionError("the server closed the connection") from None
    finally:
        if writer is not None:
            writer.close()
