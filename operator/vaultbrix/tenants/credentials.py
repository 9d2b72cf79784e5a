"""The content of a Secret with credentials, with the keys that CloudNativePG and Service Binding users expect."""

from dataclasses import dataclass
from urllib.parse import quote

from vaultbrix.api.postgresserver import Endpoint, SslMode

# Where a Pod mounts the CA of a Secret that it takes its environment from: libpq reads a CA from files only.
CA_FILE = "/etc/vaultbrix/ca.crt"


@dataclass(frozen=True)
class ServerIdentity:
    """By what clients know the server: the CA in PEM, empty where none is known, and libpq's sslmode."""

    ca: str
    ssl_mode: SslMode


def secret_data(
    *,
    endpoint: Endpoint,
    identity: ServerIdentity,
    database: str,
    role: str,
    password: str,
    schema: str | None = None,
) -> dict[str, str]:
    """All keys of the Secret, in clear (``stringData``). ``role`` logs in; its schema has its name unless given."""
    schema = schema or role
    host, port = endpoint.host, str(endpoint.port)
    authority = f"[{host}]" if ":" in host else host
    user, secret, name = quote(role, safe=""), quote(password, safe=""), quote(database, safe="")
    address = f"{user}:{secret}@{authority}:{port}/{name}"
    # Prisma takes an sslmode that it does not know, such as verify-full, for "prefer"; strict is its verify-full.
    strict = "&sslaccept=strict" if identity.ca else ""
    return {
        "type": "postgresql",
        "provider": "vaultbrix",
        "host": host,
        "port": port,
        "dbname": database,
        "username": role,
        "password": password,
        "schema": schema,
        "uri": f"postgresql://{address}?sslmode={identity.ssl_mode}",
        "jdbc-uri": (
            f"jdbc:postgresql://{authority}:{port}/{name}?user={user}&password={secret}"
            f"&sslmode={identity.ssl_mode}&currentSchema={schema}"
        ),
        "pgpass": ":".join(_pgpass(part) for part in (host, port, database, role, password)),
        "DATABASE_URL": f"postgresql://{address}?sslmode=require{strict}&schema={schema}",
        "PGHOST": host,
        "PGPORT": port,
        "PGDATABASE": database,
        "PGUSER": role,
        "PGPASSWORD": password,
        "PGSSLMODE": identity.ssl_mode,
        # Not in uri: drivers other than libpq take what they do not know there for a setting of the server.
        "PGCHANNELBINDING": "require",
        # A libpq before 16 passes it over, and does as much for channel binding.
        "PGREQUIREAUTH": "scram-sha-256",
        **({"PGSSLROOTCERT": CA_FILE, "ca.crt": identity.ca} if identity.ca else {}),
    }


def _pgpass(field: str) -> str:
    return field.replace("\\", "\\\\").replace(":", "\\:")
