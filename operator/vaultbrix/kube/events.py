"""Writes Kubernetes events about our objects: best effort, the log has them too."""

from datetime import UTC, datetime

import structlog

from vaultbrix.api.meta import Resource
from vaultbrix.kube.client import EVENTS, Conflict, Kube, NotFound, Object, resource_type
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)


async def warn(kube: Kube, about: Resource, reason: str, message: str, *, component: str, host: str = "") -> None:
    """Write a Warning about an object, as seen by ``component`` on ``host``. One that cannot be written is only logged.

    Events of objects without a namespace live in namespace default (Kubernetes API, core/v1 Event).
    """
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    kind = resource_type(type(about))
    meta = about.metadata
    namespace = meta.namespace or "default"
    event: Object = {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"generateName": f"{meta.name[:200]}-", "namespace": namespace},
        "type": "Warning",
        "reason": reason,
        "message": message[:1024],
        "involvedObject": {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "name": meta.name,
            "uid": meta.uid,
            **({"namespace": meta.namespace} if meta.namespace else {}),
        },
        "source": {"component": component, **({"host": host} if host else {})},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    log.warning("event", about=about.display, reason=reason, message=message)
    try:
        await kube.create(EVENTS, namespace, event)
    except (Expected, Conflict, NotFound) as error:
        log.warning("event not written", message=str(error))
