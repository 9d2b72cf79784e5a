"""NetworkPolicies as objects (networking.k8s.io/v1). Pure."""

from collections.abc import Sequence
from typing import Any

from vaultbrix.api.postgresserver import TrustedPods
from vaultbrix.runtime.templates import render_object


def base_network_policy(
    *,
    server: str,
    namespace: str,
    pod_selector: dict[str, str],
    port: int,
    trusted: Sequence[str],
    trusted_pods: Sequence[TrustedPods] = (),
    echo_port: int | None = None,
) -> dict[str, Any]:
    """Ingress to the PostgreSQL pods on their port from trusted sources only; one per server.

    ``echo_port`` is open to everybody: it tells callers no more than their own address.
    """
    return render_object(
        "access/networkpolicy/networkpolicy.yaml.j2",
        name=f"vaultbrix-{server}",
        server=server,
        tenant="",
        namespace=namespace,
        pod_selector=pod_selector,
        port=port,
        cidrs=trusted,
        pods=trusted_pods,
        echo_port=echo_port,
    )


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
    return render_object(
        "access/networkpolicy/networkpolicy.yaml.j2",
        name=policy_name(server, role),
        server=server,
        tenant=tenant,
        namespace=namespace,
        pod_selector=pod_selector,
        port=port,
        cidrs=cidrs,
        pods=(),
        echo_port=None,
    )


def policy_name(server: str, role: str) -> str:
    """Name of a tenant's NetworkPolicy, unlike that of any other: a server's name holds no dot, a role no hyphen.

    The last word keeps a role that ends in _ from ending the name in a hyphen (RFC 1123).
    """
    return f"vaultbrix-{server}.{role.replace('_', '-')}-access"
