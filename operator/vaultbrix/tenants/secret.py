"""Secrets with credentials for PostgreSQL: a tenant's, and those of rules with a login of their own."""

import secrets
from dataclasses import dataclass

from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.client import Kube
from vaultbrix.kube.owned_secret import OwnedSecret, Values, ensure_secret
from vaultbrix.postgres import scram
from vaultbrix.postgres.scram import PASSWORD_BYTES
from vaultbrix.tenants.credentials import secret_data


@dataclass(frozen=True)
class CredentialsSecret:
    """Whose, of which name, and what it says. ``remedy`` is what to do when the name is taken."""

    owner: Resource
    name: str
    server: PostgresServer
    role: str
    schema: str
    remedy: str


async def ensure_credentials(kube: Kube, credentials: CredentialsSecret, *, likely_new: bool = False) -> str:
    """Make the Secret right and return the password in it; a new one only where there is none.

    ``likely_new`` and what is raised are as in ``kube.owned_secret.ensure_secret``.
    """

    def values_of(present: Values) -> Values:
        password = _good_password(present.get("password", "")) or secrets.token_urlsafe(PASSWORD_BYTES)
        return secret_data(
            endpoint=credentials.server.endpoint,
            database=credentials.server.spec.database,
            role=credentials.role,
            password=password,
            schema=credentials.schema,
        )

    secret = OwnedSecret(credentials.owner, credentials.name, credentials.remedy)
    return (await ensure_secret(kube, secret, values_of, likely_new=likely_new))["password"]


def _good_password(password: str) -> str | None:
    """The password, if PostgreSQL takes it and it is as good as ours; else somebody wrote it by hand."""
    try:
        scram.verifier(password, b"\0" * scram.SALT_BYTES, 1)
    except ValueError:
        return None
    return password if len(password) >= PASSWORD_BYTES else None
