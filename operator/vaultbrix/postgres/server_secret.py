"""Decides whether a Secret may be used for a PostgresServer that names it, and takes values out of it. Pure.

Whoever may write a PostgresServer names any Secret that the operator may read, and the host that it is used at. So the
Secret itself has to say which servers it is for, in a label: that only those who may write the Secret can do.
"""

import base64
import binascii
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import SecretRef
from vaultbrix.runtime.errors import Blocked

FOR_SERVER = "vaultbrix.com/for-postgresserver"
"""Label of a Secret: the PostgresServers that it is for, their names joined by dots, which no such name has."""

# A label's value, Kubernetes "Labels and Selectors", "Syntax and character set".
_LONGEST_VALUE = 63

_PEM_BEGINS = re.compile(r"-----BEGIN ([^\n-]*)-----")


def servers_of(secret: Mapping[str, Any]) -> list[str]:
    """The PostgresServers that a Secret, as the API server returns it, says it is for."""
    label = (secret["metadata"].get("labels") or {}).get(FOR_SERVER, "")
    return [name for name in label.split(".") if name]


def label_for(servers: Iterable[str]) -> str | None:
    """The label's value for these PostgresServers, each once and in this order; None where it would be too long."""
    value = ".".join(dict.fromkeys(servers))
    return value if len(value) <= _LONGEST_VALUE else None


def check_for_server(secret: Mapping[str, Any], server: str, field: str) -> None:
    """Raise Blocked(SecretNotForServer), with the remedy, for a Secret that does not say that it is for the server.

    ``field`` is where the PostgresServer names the Secret, such as ``spec.adminSecretRef``.
    """
    present = servers_of(secret)
    if server in present:
        return
    namespace, name = secret["metadata"]["namespace"], secret["metadata"]["name"]
    value = label_for([*present, server])
    if value is None:
        remedy = f"its label has no room for another server: name a copy of its own, with label {FOR_SERVER}={server}"
    else:
        overwrite = " --overwrite" if present else ""
        remedy = (
            "if it is to be sent to spec.host, say so: "
            f"kubectl -n {namespace} label secret {name} {FOR_SERVER}={value}{overwrite}"
        )
    raise Blocked(
        Reason.SECRET_NOT_FOR_SERVER,
        f"{field}: Secret {namespace}/{name} is not used, since it has no label {FOR_SERVER} that names {server}; "
        f"{remedy}",
    )


def text_of(data: Mapping[str, str], key: str, reference: SecretRef, field: str) -> str:
    """The text in a key of a Secret's ``data``. Raises Blocked(SecretInvalid) where there is none."""
    try:
        value = base64.b64decode(data.get(key, ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        value = ""
    if not value:
        raise Blocked(Reason.SECRET_INVALID, f"{field}: {_name(reference)} has no text in key {key}")
    return value


def certificates_of(data: Mapping[str, str], key: str, reference: SecretRef, field: str) -> str:
    """The certificates in a key of a Secret's ``data``, in PEM and nothing else: they are handed to every client.

    Text around them is left out. Raises Blocked(SecretInvalid) where there is none, or anything else in PEM.
    """
    try:
        return _certificates(text_of(data, key, reference, field))
    except ValueError as error:
        raise Blocked(
            Reason.SECRET_INVALID,
            f"{field}: {_name(reference)} holds {error} in key {key}; name a key that holds certificates in PEM alone",
        ) from None


# Asked for each Tenant again.
@functools.lru_cache(maxsize=64)
def _certificates(text: str) -> str:
    kinds = _PEM_BEGINS.findall(text)
    if not kinds:
        raise ValueError("no certificate")
    if set(kinds) != {"CERTIFICATE"}:
        raise ValueError("something other than certificates")
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        found = []
    # One that does not end is passed over there.
    if len(found) != len(kinds):
        raise ValueError("a certificate that cannot be read")
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in found)


def _name(reference: SecretRef) -> str:
    return f"Secret {reference.namespace}/{reference.name}"
