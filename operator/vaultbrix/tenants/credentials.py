"""The content of a Secret with credentials, with the keys that CloudNativePG and Service Binding users expect."""

from urllib.parse import quote

from vaultbrix.api.postgresserver import Endpoint


def secret_data(
    *, endpoint: Endpoint, database: str, role: str, password: str, schema: str | None = None
) -> dict[str, str]:
    """All keys of the Secret, in clear (``stringData``). ``role`` logs in; its schema has its name unless given."""
    schema = schema or role
    host, port = endpoint.host, endpoint.port
    authority = f"[{host}]" if ":" in host else host
    user, secret, name = quote(role, safe=""), quote(password, safe=""), quote(database, safe="")
    uri = f"postgresql://{user}:{secret}@{authority}:{port}/{name}?sslmode=require"
    return {
        "type": "postgresql",
        "provider": "vaultbrix",
        "host": host,
        "port": str(port),
        "dbname": database,
        "username": role,
        "password": password,
        "schema": schema,
        "uri": uri,
        "jdbc-uri": (
            f"jdbc:postgresql://{authority}:{port}/{name}?user={user}&password={secret}"
            f"&sslmode=require&currentSchema={schema}"
        ),
        "pgpass": ":".join(_pgpass(part) for part in (host, str(port), database, role, password)),
        "DATABASE_URL": f"{uri}&schema={schema}",
    }


def _pgpass(field: str) -> str:
    return field.replace("\\", "\\\\").replace(":", "\\:")
