"""Runs once per install and upgrade: makes Secrets that are missing, then the audit store. What exists is kept."""

import asyncio
import base64
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from vaultbrix.audit.schema import ensure_login, migrate
from vaultbrix.audit.seal import new_key, server_key
from vaultbrix.install.certificates import Issued, authority, client, server, usable
from vaultbrix.kube.client import Conflict, Kube, NotFound
from vaultbrix.kube.resources import JOBS, SECRETS
from vaultbrix.postgres import scram
from vaultbrix.postgres.connect import Target, connect
from vaultbrix.postgres.scram import PASSWORD_BYTES
from vaultbrix.postgres.server_secret import FOR_SERVER, label_for, servers_of
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

STORE_PAUSE_SECONDS = 2.0
STORE_PORT = 5432
STORE_DATABASE = "audit"
ADMIN = "postgres"
# What Jobs of approvals are labelled with (ddl/job/job.yaml.j2).
MADE_HERE, OF_APPROVAL = "app.kubernetes.io/managed-by=vaultbrix", "vaultbrix.com/ddlapproval-uid"


@dataclass(frozen=True)
class Release:
    """Names of one release: its namespace, its prefix, and what clients call its two databases.

    ``servers`` are the PostgresServers whose record goes to the store: the chart's own, and then others. Without
    ``server_names`` the certificate of PostgreSQL is made by somebody else.
    """

    namespace: str
    name: str
    server_names: tuple[str, ...]
    store_names: tuple[str, ...]
    servers: tuple[str, ...]

    def secret(self, purpose: str) -> str:
        """Name of a Secret of the release."""
        return f"{self.name}-{purpose}"


# A login of the store: its Secret's content, its group, and the servers that it ships.
Login = tuple[dict[str, str], str, tuple[str, ...]]


async def bootstrap(kube: Kube, release: Release) -> None:
    """Make all Secrets that are missing, then wait for the audit store and make it ready. Raises Blocked."""
    owner, logins = await make_secrets(kube, release)
    await _store(owner, logins)


async def make_secrets(kube: Kube, release: Release) -> tuple[dict[str, str], list[Login]]:
    """Make all Secrets that are missing; returns the store's owner and logins. Raises Blocked."""
    now = datetime.now(UTC)
    ca = await _authority(kube, release, now)
    if release.server_names:
        await _certificate(kube, release, ca, "postgresql-tls", release.server_names, now)
    await _certificate(kube, release, ca, "audit-tls", release.store_names, now)
    admin = await _login(kube, release, "postgresql-admin", ADMIN, {})
    await _client_certificate(kube, release, ca, "postgresql-admin", admin, now)
    store = {
        "host": release.store_names[0],
        "port": str(STORE_PORT),
        "dbname": STORE_DATABASE,
        "ca.crt": ca.certificate,
    }
    owner = await _login(kube, release, "audit-owner", "postgres", store)
    shippers = {server: await _shipper(kube, release, server, store) for server in release.servers}
    reader = await _login(kube, release, "audit-reader", "vaultbrix_auditor", store)
    await _trust(kube, release, reader, shippers)
    manager = await _login(kube, release, "audit-manager", "vaultbrix_audit_manager", store)
    await _say_servers(kube, release)
    shipping: list[Login] = [(shipper, "audit_append", (server,)) for server, shipper in shippers.items()]
    return owner, [*shipping, (reader, "audit_read", ()), (manager, "audit_manage", ())]


async def sweep_jobs(kube: Kube, namespace: str) -> None:
    """Delete Jobs of approvals in a namespace, each with the Secret of its name: earlier releases ran them there.

    What had not ended is begun again by the operator, where Jobs run now; the gate lets it through once.
    """
    for job in (await kube.list(JOBS, namespace, labels=f"{MADE_HERE},{OF_APPROVAL}"))["items"]:
        name = job["metadata"]["name"]
        # The Secret first: without the Job nobody would find it here again.
        await kube.delete(SECRETS, namespace, name)
        await kube.delete(JOBS, namespace, name, uid=job["metadata"]["uid"])
        log.info("Job of an approval deleted", job=name)


async def _say_servers(kube: Kube, release: Release) -> None:
    """Have the Secrets that PostgresServers name say for which of them they are; what else they say stays."""
    own = release.servers[:1]
    named = {"postgresql-admin": own, "audit-reader": release.servers, "audit-manager": release.servers}
    if release.server_names:
        named["postgresql-tls"] = own
    for purpose, servers in named.items():
        name = release.secret(purpose)
        secret = await kube.get(SECRETS, release.namespace, name)
        present = servers_of(secret)
        lacking = [server for server in servers if server not in present]
        if not lacking:
            continue
        value = label_for([*present, *lacking])
        while value is None:
            left_out = lacking.pop()
            log.warning("label is full; the server needs a copy of the Secret", secret=name, server=left_out)
            value = label_for([*present, *lacking])
        await kube.merge(SECRETS, release.namespace, name, {"metadata": {"labels": {FOR_SERVER: value}}})
        log.info("Secret is for servers", secret=name, servers=value)


async def _shipper(kube: Kube, release: Release, server: str, store: dict[str, str]) -> dict[str, str]:
    """Login and key of one server's shipper, which no other server's has."""
    own = server == release.servers[0]
    purpose = "audit-shipper" if own else f"audit-shipper-{server}"
    private, public = new_key()
    signing = {"signing.key": private, "signing.pub": public}
    username = "vaultbrix_shipper" if own else f"vaultbrix_shipper_{server}"
    shipper = await _login(kube, release, purpose, username, {**store, **signing})
    return await _complete(kube, release, purpose, shipper, signing)


async def _trust(kube: Kube, release: Release, reader: dict[str, str], shippers: dict[str, dict[str, str]]) -> None:
    """Give the reader the public keys that it lacks. Readers check signatures; only a shipper can make them."""
    known = reader.get("signing.pub", "")
    lacking = [
        server_key(server, shipper["signing.pub"])
        for server, shipper in shippers.items()
        if shipper["signing.pub"].strip() not in known
    ]
    if lacking:
        content = {"signing.pub": "".join([known.rstrip() + "\n" if known.strip() else "", *lacking])}
        await kube.merge(SECRETS, release.namespace, release.secret("audit-reader"), {"data": _encoded(content)})
        log.info("public keys added", secret=release.secret("audit-reader"), number=len(lacking))


async def _store(owner: dict[str, str], logins: list[Login]) -> None:
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
                for login, group, servers in logins:
                    verifier = scram.verifier(login["password"], secrets.token_bytes(scram.SALT_BYTES))
                    await ensure_login(
                        connection, name=login["username"], group=group, verifier=verifier, servers=servers
                    )
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
    if not usable(existing.get("tls.crt", ""), ca, names, now):
        await kube.merge(SECRETS, release.namespace, release.secret(purpose), {"data": _encoded(renewed)})
        log.info("certificate renewed", secret=release.secret(purpose))


async def _client_certificate(
    kube: Kube, release: Release, ca: Issued, purpose: str, existing: dict[str, str], now: datetime
) -> None:
    """Put what the admin logs in with beside the password, and the CA that PostgreSQL is to know it by."""
    if usable(existing.get("tls.crt", ""), ca, (), now) and existing.get("client-ca.crt") == ca.certificate:
        return
    issued = client(ca, ADMIN, now)
    renewed = {"client-ca.crt": ca.certificate, "tls.crt": issued.certificate, "tls.key": issued.key}
    await kube.merge(SECRETS, release.namespace, release.secret(purpose), {"data": _encoded(renewed)})
    log.info("client certificate issued", secret=release.secret(purpose))


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
