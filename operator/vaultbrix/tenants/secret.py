"""Secrets with credentials for PostgreSQL: a tenant's, and those of rules with a login of their own."""

import secrets
from dataclasses import dataclass

from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.client import Kube
from vaultbrix.kube.owned_secret import OwnedSecret, Values, ensure_secret
from vaultbrix.postgres import scram
from vaultbrix.postgres.admin import Admin
from vaultbrix.postgres.scram import PASSWORD_BYTES
from vaultbrix.tenants.credentials import ServerIdentity, secret_data


@dataclass(frozen=True)
class CredentialsSecret:
    """A Secret as it should be: its owner, name and content. ``remedy`` is what to do when the name is taken."""

    owner: Resource
    name: str
    server: PostgresServer
    identity: ServerIdentity
    role: str
    schema: str
    remedy: str

    @property
    def owned(self) -> OwnedSecret:
        """The Secret, without its content."""
        return OwnedSecret(self.owner, self.name, self.remedy)


async def server_identity(admin: Admin, server: PostgresServer) -> ServerIdentity:
    """By what clients are to know the server. Raises Blocked where the CA's Secret is missing or incomplete."""
    return ServerIdentity(await admin.certificate_authority(server), server.client_ssl_mode)


async def ensure_credentials(kube: Kube, credentials: CredentialsSecret, *, likely_new: bool = False) -> str:
    """Make the Secret right and return the password in it; a new one only where there is none.

    ``likely_new`` and what is raised are as in ``kube.owned_secret.ensure_secret``.
    """

    def values_of(present: Values) -> Values:
        password = good_password(present.get("password", "")) or secrets.token_urlsafe(PASSWORD_BYTES)
        return values(credentials, password)

    return (await ensure_secret(kube, credentials.owned, values_of, likely_new=likely_new))["password"]


def values(credentials: CredentialsSecret, password: str) -> Values:
    """What the Secret holds with that password, in clear."""
    return secret_data(
        endpoint=credentials.server.endpoint,
        identity=credentials.identity,
        database=credentials.server.spec.database,
        role=credentials.role,
        password=password,
        schema=credentials.schema,
    )


def good_password(password: str) -> str | None:
    """The password, if PostgreSQL takes it and it is as good as ours; else somebody wrote it by hand."""
    try:
        scram.verifier(password, b"\0" * scram.SALT_BYTES, 1)
    except ValueError:
        return None
    # A shorter password, which somebody wrote by hand, is replaced.
    return password if len(password) >= PASSWORD_BYTES else None
