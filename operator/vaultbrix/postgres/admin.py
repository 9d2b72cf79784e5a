"""The operator's own way into a server: its admin Secret and CA, read each time so that a change counts at once."""

import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import PostgresServer, SecretRef
from vaultbrix.kube.client import SECRETS, Kube, NotFound
from vaultbrix.postgres.connect import Target, connect
from vaultbrix.runtime.errors import Blocked

# A tenant that holds a lock must not hold a worker.
_TIMEOUTS = "-c lock_timeout=5s -c statement_timeout=60s"
_AUDIT_TIMEOUTS = "-c statement_timeout=30s -c default_transaction_read_only=on"
_MANAGER_TIMEOUTS = "-c statement_timeout=10min"


@asynccontextmanager
async def admin_connection(kube: Kube, server: PostgresServer) -> AsyncIterator[psycopg.AsyncConnection]:
    """An autocommit connection as the admin. Raises Blocked or Transient, also for statements run inside."""
    async with connect(await admin_target(kube, server)) as connection:
        yield connection


async def admin_target(kube: Kube, server: PostgresServer) -> Target:
    """Where and as whom. Raises Blocked for a Secret that is missing or incomplete."""
    spec = server.spec
    secret = await _secret(kube, spec.admin_secret_ref, "spec.adminSecretRef")
    return Target(
        host=spec.host,
        port=spec.port,
        database=spec.database,
        user=_value(secret, "username", spec.admin_secret_ref, "spec.adminSecretRef"),
        password=_value(secret, "password", spec.admin_secret_ref, "spec.adminSecretRef"),
        ssl_mode=spec.tls.mode,
        ca=await certificate_authority(kube, server),
        application="vaultbrix-operator",
        options=_TIMEOUTS,
    )


async def audit_target(kube: Kube, server: PostgresServer) -> Target:
    """The audit store as its reader. Raises Blocked for a Secret that is not named, missing or incomplete."""
    return await _store(kube, server.spec.audit_secret_ref, "spec.auditSecretRef", _AUDIT_TIMEOUTS)


async def audit_manager_target(kube: Kube, server: PostgresServer) -> Target:
    """The audit store as who keeps retention. Raises as audit_target."""
    return await _store(kube, server.spec.audit_manager_secret_ref, "spec.auditManagerSecretRef", _MANAGER_TIMEOUTS)


async def _store(kube: Kube, reference: SecretRef | None, field: str, options: str) -> Target:
    if reference is None:
        raise Blocked(Reason.SECRET_NOT_FOUND, f"{field} is not set")
    secret = await _secret(kube, reference, field)
    host, port, database, user, password, authority = (
        _value(secret, key, reference, field) for key in ("host", "port", "dbname", "username", "password", "ca.crt")
    )
    if not port.isdecimal():
        raise Blocked(
            Reason.SECRET_INVALID, f"{field}: Secret {reference.namespace}/{reference.name} has no number in key port"
        )
    return Target(
        host=host,
        port=int(port),
        database=database,
        user=user,
        password=password,
        ca=authority,
        application="vaultbrix-operator",
        options=options,
    )


async def certificate_authority(kube: Kube, server: PostgresServer) -> str:
    """PEM text of the CA, empty where none is named."""
    reference = server.spec.tls.ca_secret_ref
    if reference is None:
        return ""
    secret = await _secret(kube, reference, "spec.tls.caSecretRef")
    return _value(secret, reference.key, reference, "spec.tls.caSecretRef")


async def _secret(kube: Kube, reference: SecretRef, field: str) -> dict[str, str]:
    try:
        found = await kube.get(SECRETS, reference.namespace, reference.name)
    except NotFound:
        raise Blocked(
            Reason.SECRET_NOT_FOUND, f"{field}: Secret {reference.namespace}/{reference.name} does not exist; create it"
        ) from None
    data: dict[str, str] = found.get("data") or {}
    return data


def _value(data: dict[str, str], key: str, reference: SecretRef, field: str) -> str:
    try:
        value = base64.b64decode(data.get(key, ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        value = ""
    if not value:
        raise Blocked(
            Reason.SECRET_INVALID, f"{field}: Secret {reference.namespace}/{reference.name} has no text in key {key}"
        )
    return value
