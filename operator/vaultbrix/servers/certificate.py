"""Looks at the certificate that a PostgreSQL server presents."""

import ssl

from vaultbrix.api.conditions import Reason
from vaultbrix.postgres.handshake import handshake
from vaultbrix.runtime.errors import Transient
from vaultbrix.servers.decisions import Untrusted

# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH, x509_vfy.h of OpenSSL.
_NAME_MISMATCHES = (62, 64)


async def check_certificate(host: str, port: int, *, name: str, ca: str) -> Untrusted | None:
    """Whether the server at ``host`` proves with its certificate that it is ``name``; None when it does.

    ``name`` is a DNS name or an address, ``ca`` the PEM text of the CA. Raises Transient when the server cannot be
    asked.
    """
    try:
        context = ssl.create_default_context(cadata=ca)
    except ssl.SSLError:
        return Untrusted("the CA is no certificate in PEM", name_missing=False)
    try:
        await handshake(host, port, context, name=name)
    except ssl.SSLCertVerificationError as error:
        return Untrusted(error.verify_message, name_missing=error.verify_code in _NAME_MISMATCHES)
    except OSError as error:
        raise Transient(Reason.UNREACHABLE, f"{host}:{port} shows no certificate: {error}") from None
    return None
