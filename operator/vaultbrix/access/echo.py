"""Ask the echo beside PostgreSQL under which address it sees us."""

import asyncio

from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.addresses import Address, parse_address
from vaultbrix.runtime.errors import Blocked, Transient

PATIENCE_SECONDS = 5.0
LONGEST_ANSWER = 64


async def ask(host: str, port: int) -> Address:
    """Our own address as that host sees it. Raises Transient when it does not answer, Blocked for no address."""
    writer = None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, limit=LONGEST_ANSWER)
            answer = await reader.read(LONGEST_ANSWER)
    except (OSError, TimeoutError) as error:
        why = str(error) or "no answer"
        raise Transient(Reason.UNREACHABLE, f"{host}:{port} does not say how it sees us: {why}") from None
    finally:
        if writer is not None:
            writer.close()
    try:
        return parse_address(answer.decode("ascii").strip())
    except ValueError:
        raise Blocked(Reason.UNREACHABLE, f"{host}:{port} is no echo of vaultbrix: it names no address") from None
