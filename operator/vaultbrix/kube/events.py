"""Kubernetes events about our objects: best effort, the log has them too."""

from datetime import UTC, datetime

import structlog

from vaultbrix.api.meta import Resource
from vaultbrix.kube.client import EVENTS, Conflict, Kube, NotFound, Object, resource_type
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)


async def warn(kube: Kube, about: Resource, reason: str, message: str) -> None:
    """A Warning about an object with a namespace; never raises Expected."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    kind = resource_type(type(about))
    event: Object = {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"generateName": f"{about.metadata.name[:200]}-", "namespace": about.metadata.namespace},
        "type": "Warning",
        "reason": reason,
        "message": message[:1024],
        "involvedObject": {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "namespace": about.metadata.namespace,
            "name": about.metadata.name,
            "uid": about.metadata.uid,
        },
        "source": {"component": "vaultbrix-operator"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    log.warning("event", about=about.display, reason=reason, message=message)
    try:
        await kube.create(EVENTS, about.metadata.namespace, event)
    except (Expected, Conflict, NotFound) as error:
        log.warning("event not written", message=str(error))
