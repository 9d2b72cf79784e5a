"""Templates to text and objects: pg_hba lines, NetworkPolicies, the Job of an approval. Pure."""

import functools
import io
import re
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


@functools.lru_cache(maxsize=131_072)
def _hba_grant(database: str, role: str, cidr: str) -> str:
    # By itself, since a block of ten thousand lines differs from the one before in one of them.
    return f"hostssl {hba_quote(database)} {hba_quote(role)} {cidr} scram-sha-256\n"


def hba_block(*, database: str, pairs: Sequence[tuple[str, str]], trusted: Sequence[str], probe: str = "") -> str:
    """The marked block that goes first in pg_hba.conf: (role, CIDR) pairs, Jobs, then reject for all tenants.

    ``probe`` is the name of a database that does not exist. Whoever asks for it as vaultbrix_agent, which has no
    password, is asked for one if and only if PostgreSQL has loaded this block.
    """
    return _ENVIRONMENT.get_template("pg_hba.conf.j2").render(
        begin=HBA_BEGIN,
        end=HBA_END,
        database=database,
        grants="".join(_hba_grant(database, role, cidr) for role, cidr in pairs),
        trusted=trusted,
        probe=probe,
    )


# Lines of a block whose end mark somebody took away.
_OURS = re.compile(
    r"# Written by vaultbrix agent;.*"
    r'|local "vaultbrix_probe_\w*" vaultbrix_agent password'
    r'|hostssl "[^"]*" ("tenant_\w*"|\+vaultbrix_jobs) \S+ scram-sha-256'
    r"|(local all|host all) \+vaultbrix_tenants( all)? reject"
)


def foreign_hba(content: str) -> str:
    """What of a pg_hba.conf is not ours, as it is. Without our end mark, only lines that we write count as ours."""
    kept: list[str] = []
    block: list[str] | None = None
    # Lines as PostgreSQL reads them; splitlines() knows many more ends.
    for line in io.StringIO(content, newline=""):
        mark = line.strip()
        if mark == HBA_BEGIN:
            kept += _not_ours(block)
            block = []
        elif mark == HBA_END and block is not None:
            block = None
        elif block is not None:
            block.append(line)
        else:
            kept.append(line)
    return "".join([*kept, *_not_ours(block)])


def _not_ours(block: list[str] | None) -> list[str]:
    return [line for line in block or () if not _OURS.fullmatch(line.strip())]


def splice_hba(content: str, block: str) -> str:
    """The file with our block first and everything else as it was."""
    return block + foreign_hba(content)


# The parser of libyaml where PyYAML was built with it: ten times as fast.
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _objects(template: str, **values: Any) -> list[dict[str, Any]]:
    text = _ENVIRONMENT.get_template(template).render(**values)
    return [document for document in yaml.load_all(text, Loader=_LOADER) if document]


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
