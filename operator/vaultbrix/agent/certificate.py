"""Has PostgreSQL take over a renewed certificate: it reads the files at a reload only, and nobody else tells it to."""

import asyncio
import ssl
from pathlib import Path

import structlog

from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.postgres.handshake import handshake
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

CHECK_SECONDS = 5.0
# PostgreSQL keeps the old certificate where the new one does not fit its key, and logs that at every reload.
LONGEST_PAUSE_SECONDS = 60.0


class CertificateReload:
    """Compares the first certificate in a PEM file with the one that PostgreSQL serves, once the file has changed.

    A mounted Secret reaches the two containers at different times, so one reload at the change of the file could be
    too early.
    """

    def __init__(self, path: Path, port: int, control: SessionControl) -> None:
        self._path = path
        self._port = port
        self._control = control
        self._served = b""

    async def run(self) -> None:
        """Look again and again until cancelled."""
        pause = CHECK_SECONDS
        while True:
            pause = CHECK_SECONDS if await self._is_served() else min(2 * pause, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _is_served(self) -> bool:
        """Whether new connections get what is on disk; if not, PostgreSQL is told to reload."""
        try:
            on_disk = ssl.PEM_cert_to_DER_cert(_first(self._path.read_text()))
            if on_disk == self._served:
                return True
            if await self._presented() == on_disk:
                self._served = on_disk
                log.info("certificate is served", file=str(self._path))
                return True
            log.info("PostgreSQL serves another certificate than the one on disk: reload", file=str(self._path))
            await self._control.reload()
        except (OSError, ValueError, Expected) as error:
            log.warning("certificate", file=str(self._path), message=str(error))
        finally:
            await self._control.close()
        return False

    async def _presented(self) -> bytes:
        # Compared with the file byte for byte, which proves more than a CA could.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return await handshake("127.0.0.1", self._port, context, name="localhost")


def _first(pem: str) -> str:
    """The first certificate of a chain, which is the server's own. Raises ValueError where there is none."""
    end = "-----END CERTIFICATE-----"
    return pem[pem.index("-----BEGIN CERTIFICATE-----") : pem.index(end) + len(end)]
