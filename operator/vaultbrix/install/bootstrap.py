"""Runs once per install and upgrade: makes Secrets that are missing, then the audit store. What exists is kept."""

import asyncio
import base64
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from vaultbrix.audit.schema import ensure_login, migrate
from vaultbrix.audit.seal import new_key
from vaultbrix.install.certificates import Issued, authority, server, usable
from vaultbrix.kube.client import SECRETS, Conflict, Kube, NotFound
from vaultbrix.postgres import scram
from vaultbrix.postgres.connect import Target, connect
from vaultbrix.postgres.scram import PASSWORD_BYTES
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

STORE_PAUSE_SECONDS = 2.0
STORE_PORT = 5432
STORE_DATABASE = "audit"


@dataclass(frozen=True)
class Release:
    """Names of one release: its namespace, its prefix, and the services of its two databases."""

    namespace: str
    name: str
    server_names: tuple[str, ...]
    store_names: tuple[str, ...]

    def secret(self, purpose: str) -> str:
        """Name of a Secret of the release."""
        return f"{self.name}-{purpose}"


async def bootstrap(kube: Kube, release: Release) -> None:
    """Make all Secrets that are missing, then wait for the audit store and make it ready. Raises Blocked."""
    now = datetime.now(UTC)
    ca = await _authority(kube, release, now)
    await _certificate(kube, release, ca, "postgresql-tls", release.server_names, now)
    await _certificate(kube, release, ca, "audit-tls", release.store_names, now)
    await _login(kube, release, "postgresql-admin", "postgres", {})
    store = {
        "host": release.store_names[0],
        "port": str(STORE_PORT),
        "dbname": STORE_DATABASE,
        "ca.crt": ca.certificate,
    }
    owner = await _login(kube, release, "audit-owner", "postgres", store)
    private, public = new_key()
    shipper = await _login(
        kube, release, "audit-shipper", "vaultbrix_shipper", {**store, "signing.key": private, "signing.pub": public}
    )
    shipper = await _complete(kube, release, "audit-shipper", shipper, {"signing.key": private, "signing.pub": public})
    reader = await _login(kube, release, "audit-reader", "vaultbrix_auditor", store)
    # Readers check signatures; only the shipper can make them.
    await _complete(kube, release, "audit-reader", reader, {"signing.pub": shipper["signing.pub"]})
    manager = await _login(kube, release, "audit-manager", "vaultbrix_audit_manager", store)
    await _store(owner, [(shipper, "audit_append"), (reader, "audit_read"), (manager, "audit_manage")])


async def _store(owner: dict[str, str], logins: list[tuple[dict[str, str], str]]) -> None:
    target = Target(
        host=owner["host"],
        port=int(owner["port"]),
        database=owner["dbname"],
        user=owner["username"],
        password=owner["password"],
        ca=owner["ca.crt"],
        application="vaultbrix-bootstrap",
    )
    while True:
        try:
            async with connect(target) as connection:
                version = await migrate(connection)
                for login, group in logins:
                    verifier = scram.verifier(login["password"], secrets.token_bytes(scram.SALT_BYTES))
                    await ensure_login(connection, name=login["username"], group=group, verifier=verifier)
            log.info("audit store ready", migration=version)
        except Expected as error:
            log.info("waiting for the audit store", message=error.message)
            await asyncio.sleep(STORE_PAUSE_SECONDS)
        else:
            return


async def _authority(kube: Kube, release: Release, now: datetime) -> Issued:
    created = authority(f"{release.name} certificate authority", now)
    data = await _keep(kube, release, "ca", {"tls.crt": created.certificate, "tls.key": created.key})
    return Issued(data["tls.crt"], data["tls.key"])


async def _certificate(
    kube: Kube, release: Release, ca: Issued, purpose: str, names: tuple[str, ...], now: datetime
) -> None:
    issued = server(ca, names, now)
    renewed = {"ca.crt": ca.certificate, "tls.crt": issued.certificate, "tls.key": issued.key}
    existing = await _keep(kube, release, purpose, renewed)
    if not usable(existing.get("tls.crt", ""), names, now):
        await kube.merge(SECRETS, release.namespace, release.secret(purpose), {"data": _encoded(renewed)})
        log.info("certificate renewed", secret=release.secret(purpose))


async def _login(kube: Kube, release: Release, purpose: str, username: str, more: dict[str, str]) -> dict[str, str]:
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    return await _keep(kube, release, purpose, {"username": username, "password": password, **more})


async def _complete(
    kube: Kube, release: Release, purpose: str, existing: dict[str, str], required: dict[str, str]
) -> dict[str, str]:
    """Add the required keys, all or none, to a Secret of an earlier release that lacks any; returns its content."""
    if required.keys() <= existing.keys():
        return existing
    await kube.merge(SECRETS, release.namespace, release.secret(purpose), {"data": _encoded(required)})
    log.info("Secret completed", secret=release.secret(purpose), keys=sorted(required))
    return {**existing, **required}


async def _keep(kube: Kube, release: Release, purpose: str, content: dict[str, str]) -> dict[str, str]:
    """Create a Secret with that content unless it exists; returns the content that it has."""
    name = release.secret(purpose)
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": release.namespace,
            "labels": {"app.kubernetes.io/managed-by": "vaultbrix", "app.kubernetes.io/instance": release.name},
        },
        "type": "Opaque",
        "data": _encoded(content),
    }
    try:
        secret = await kube.get(SECRETS, release.namespace, name)
    except NotFound:
        try:
            secret = await kube.create(SECRETS, release.namespace, body)
            log.info("Secret created", secret=name)
        except Conflict:
            secret = await kube.get(SECRETS, release.namespace, name)
    return {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}


def _encoded(content: dict[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
