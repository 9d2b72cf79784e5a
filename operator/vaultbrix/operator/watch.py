"""Feeds the informers from kopf's watch: handlers pass an event on to an informer and do nothing else.

No handler here changes state for kopf, so kopf adds no finalizer, no annotation and no event of its own.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import kopf

from vaultbrix.api.meta import Resource
from vaultbrix.kube.informer import Informer
from vaultbrix.kube.resources import resource_type
from vaultbrix.runtime.errors import Stopped


async def watch(informers: Mapping[type[Resource], Informer[Any]]) -> None:
    """Feed the informers until cancelled."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for model, informer in informers.items():
        _register(registry, model, informer)
    stop = asyncio.Event()
    try:
        await kopf.operator(
            registry=registry,
            settings=_settings(),
            clusterwide=True,
            stop_flag=stop,
        )
    finally:
        stop.set()
    # kopf handles signals itself, and returns once it got one to stop.
    raise Stopped


def _register(registry: kopf.OperatorRegistry, model: type[Resource], informer: Informer[Any]) -> None:
    kind = resource_type(model)
    group, _, version = kind.api_version.rpartition("/")

    @kopf.on.event(group, version, kind.plural, registry=registry, id=f"observe-{kind.plural}")
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        informer.observe(event["type"], dict(event["object"]))


class _NothingCompared(kopf.DiffBaseStorage):
    """Spares a deep copy of each object at each event: no handler of ours asks kopf what has changed."""

    def build(self, **_: Any) -> Any:
        """An essence in which nothing ever differs."""
        return {}

    def fetch(self, **_: Any) -> None:
        """No state was handled before."""

    def store(self, **_: Any) -> None:
        """Nothing is kept on an object."""


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    # As the rest of the process logs in: by $KUBECONFIG where it is set, else in a Pod by its service account.
    if os.environ.get("KUBECONFIG"):
        return kopf.login_with_kubeconfig(**arguments)
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NothingCompared()
    settings.peering.standalone = True
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 0.5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 360
    settings.networking.request_timeout = 60
    return settings
