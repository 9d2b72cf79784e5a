"""Where the API server is and who we are there: from a kubeconfig, or in a Pod from its ServiceAccount."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import yaml
from kubernetes.aio import client, config

from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Blocked

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

# What the library may raise for a malformed kubeconfig: it does not check its shape.
_BAD_CONFIGURATION = (
    config.ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError
)  # fmt: skip

# How long before their end credentials are replaced, at most; of those that last shortly, a fifth of that time.
_EARLY = timedelta(seconds=30)
_FRACTION = 5


@dataclass(frozen=True)
class Access:
    """The configuration of a client. ``context`` is the kubeconfig's that was used, empty in a Pod.

    ``credentials`` are those that it was loaded with, a token, and files of a certificate and its key; the
    configuration gets others later. ``renew_at`` is when to load it again, None where nothing says that they end.
    """

    configuration: client.Configuration
    context: str
    credentials: tuple[str | None, ...]
    renew_at: datetime | None = None

    @property
    def anonymous(self) -> bool:
        """Whether there are no credentials, as when the program that gives them has failed."""
        return not any(self.credentials)

    def shares_connections_of(self, other: "Access") -> bool:
        """Whether connections of ``other`` do for this one: a token goes with each request, a certificate does not."""
        mine, others = self.configuration, other.configuration
        return mine.cert_file is None and others.cert_file is None and mine.ssl_ca_cert == others.ssl_ca_cert


async def load(context: str) -> Access:
    """Read the configuration, with the program for credentials run where the kubeconfig names one. Raises Blocked.

    ``context`` is one of the kubeconfig's; without it, its current one holds, or in a Pod its ServiceAccount.
    """
    configuration = client.Configuration()
    if in_pod(context):
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            pass
        else:
            return _completed(configuration, "", None)
    try:
        # Given by name: the library reads the environment only once, when it is imported.
        file = os.environ.get("KUBECONFIG") or None
        loader = await config.load_kube_config(file, context=context or None, client_configuration=configuration)
        used = str(loader.current_context["name"])
        renew_at = _renew_at(getattr(loader, "exec_plugin_expiry", None), datetime.now(UTC))
        program = _program(loader)
    except _BAD_CONFIGURATION as error:
        raise Blocked(Reason.UNREACHABLE, f"no Kubernetes API: set KUBECONFIG ({error})") from None
    access = _completed(configuration, used, renew_at)
    if program and access.anonymous:
        text = f"{program}, which gives the credentials of kubeconfig context {used}, gave none"
        raise Blocked(Reason.AUTHENTICATION_FAILED, f"no Kubernetes API: {text}; run it by hand to see why")
    return access


def _program(loader: Any) -> str:
    """The program that the kubeconfig has give the credentials; the library goes on as nobody when that fails."""
    user = loader._user  # The library has no public name for it.
    return str(user["exec"]["command"]) if user and "exec" in user else ""


def _completed(configuration: client.Configuration, context: str, renew_at: datetime | None) -> Access:
    configuration.proxy = configuration.proxy or _proxy(configuration.host)
    # Otherwise aiohttp reads the environment and ~/.netrc again for every request.
    configuration.client_session_kwargs = {"trust_env": False}
    credentials = (configuration.api_key.get("BearerToken"), configuration.cert_file, configuration.key_file)
    return Access(configuration, context, credentials, renew_at)


def _renew_at(expires_at: datetime | None, now: datetime) -> datetime | None:
    if expires_at is None:
        return None
    return expires_at - min(_EARLY, max(timedelta(0), expires_at - now) / _FRACTION)


def _proxy(host: str) -> str | None:
    """Return the proxy that the environment names for this host (HTTPS_PROXY, NO_PROXY), as aiohttp reads it."""
    proxies = getproxies_environment()
    parts = urlsplit(host)
    if proxy_bypass(parts.netloc):
        return None
    return proxies.get(parts.scheme)


def in_pod(context: str) -> bool:
    """Whether to use the service account, as kubectl does: only if nobody names a kubeconfig or a context."""
    return not context and not os.environ.get("KUBECONFIG")


def default_namespace(context: str) -> str:
    """Return the namespace of the context in use, or of the Pod. Raises Blocked if the kubeconfig cannot be read."""
    mounted = SERVICE_ACCOUNT / "namespace"
    try:
        if in_pod(context) and mounted.exists():
            return mounted.read_text().strip()
        contexts, active = config.list_kube_config_contexts()
        chosen = next((c for c in contexts if c["name"] == context), active) if context else active
        return str(chosen["context"].get("namespace") or "default")
    except _BAD_CONFIGURATION as error:
        raise Blocked(Reason.UNREACHABLE, f"no Kubernetes API: set KUBECONFIG ({error})") from None
