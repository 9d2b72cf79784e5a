"""Templates to text and objects: pg_hba lines, NetworkPolicies, the Job of an approval. Pure."""

import io
from collections.abc import Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

HBA_BEGIN = "# BEGIN VAULTBRIX"
HBA_END = "# END VAULTBRIX"

# Output is pg_hba.conf and YAML, never HTML; every YAML value goes through ``json``, which quotes it.
_ENVIRONMENT = Environment(  # noqa: S701
    loader=PackageLoader("vaultbrix.domain", "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["json"] = _ENVIRONMENT.filters["tojson"]


def hba_quote(name: str) -> str:
    """A name as pg_hba.conf takes it literally (PostgreSQL 21.1): quoted, so that it is no keyword or ``+group``.

    Raises ValueError for a character that the file cannot hold inside quotes.
    """
    if any(c in name for c in '"\n\r\0'):
        raise ValueError("a name in pg_hba.conf cannot hold quotes or line ends")
    return f'"{name}"'


_ENVIRONMENT.filters["hba"] = hba_quote


def hba_block(*, database: str, pairs: Sequence[tuple[str, str]], trusted: Sequence[str]) -> str:
    """The marked block that goes first in pg_hba.conf: (role, CIDR) pairs, Jobs, then reject for all tenants."""
    return _ENVIRONMENT.get_template("pg_hba.conf.j2").render(
        begin=HBA_BEGIN, end=HBA_END, database=database, pairs=pairs, trusted=trusted
    )


def splice_hba(content: str, block: str) -> str:
    """The file with our block first and everything else as it was. A block cut short by its owner is replaced."""
    kept: list[str] = []
    inside = False
    # Lines as PostgreSQL reads them; splitlines() knows many more ends.
    for line in io.StringIO(content, newline=""):
        mark = line.strip()
        if mark == HBA_BEGIN:
            inside = True
        elif mark == HBA_END and inside:
            inside = False
        elif not inside:
            kept.append(line)
    return block + "".join(kept)


def _objects(template: str, **values: Any) -> list[dict[str, Any]]:
    text = _ENVIRONMENT.get_template(template).render(**values)
    return [document for document in yaml.safe_load_all(text) if document]


def base_network_policy(
    *,
    server: str,
    namespace: str,
    pod_selector: dict[str, str],
    port: int,
    trusted: Sequence[str],
    echo_port: int | None = None,
) -> dict[str, Any]:
    """Ingress to the PostgreSQL pods on their port from trusted sources only; one per server.

    ``echo_port`` is open to everybody: it tells callers no more than their own address.
    """
    (policy,) = _objects(
        "networkpolicy.yaml.j2",
        name=f"vaultbrix-{server}",
        server=server,
        tenant="",
        namespace=namespace,
        pod_selector=pod_selector,
        port=port,
        cidrs=trusted,
        echo_port=echo_port,
    )
    return policy


def tenant_network_policy(
    *,
    server: str,
    tenant: str,
    role: str,
    namespace: str,
    pod_selector: dict[str, str],
    port: int,
    cidrs: Sequence[str],
) -> dict[str, Any]:
    """Ingress to the PostgreSQL pods from the open addresses of one tenant; ``tenant`` is namespace/name."""
    (policy,) = _objects(
        "networkpolicy.yaml.j2",
        name=policy_name(server, role),
        server=server,
        tenant=tenant,
        namespace=namespace,
        pod_selector=pod_selector,
        port=port,
        cidrs=cidrs,
        echo_port=None,
    )
    return policy


def policy_name(server: str, role: str) -> str:
    """Name of a tenant's NetworkPolicy, unlike that of any other: a server's name holds no dot, a role no hyphen.

    The last word keeps a role that ends in _ from ending the name in a hyphen (RFC 1123).
    """
    return f"vaultbrix-{server}.{role.replace('_', '-')}-access"


def ddl_job(**values: Any) -> dict[str, Any]:
    """The batch/v1 Job of an approval; values as the template names them."""
    (job,) = _objects("ddl-job.yaml.j2", **values)
    return job
