"""Writes Kubernetes events about our objects: best effort, the log has them too."""

from datetime import UTC, datetime

import structlog

from vaultbrix.api.meta import Resource
from vaultbrix.kube.client import Conflict, Kube, NotFound, Object
from vaultbrix.kube.resources import EVENTS, resource_type
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)


async def warn(kube: Kube, about: Resource, reason: str, message: str, *, component: str, host: str = "") -> None:
    """Write a Warning about an object, as seen by ``component`` on ``host``; never raises Expected."""
    log.warning("event", about=about.display, reason=reason, message=message)
    await _write(kube, about, "Warning", reason, message, {"component": component, **({"host": host} if host else {})})


async def note(kube: Kube, about: Resource, reason: str, message: str, *, component: str) -> None:
    """A Normal event: ``component`` did to an object what was asked for or due; never raises Expected."""
    log.info("event", about=about.display, reason=reason, message=message)
    await _write(kube, about, "Normal", reason, message, {"component": component})


async def _write(kube: Kube, about: Resource, type_: str, reason: str, message: str, source: dict[str, str]) -> None:
    """Events of objects without a namespace live in namespace default (Kubernetes API, core/v1 Event)."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    kind = resource_type(type(about))
    meta = about.metadata
    namespace = meta.namespace or "default"
    event: Object = {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"generateName": f"{meta.name[:200]}-", "namespace": namespace},
        "type": type_,
        "reason": reason,
        "message": message[:1024],
        "involvedObject": {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "name": meta.name,
            "uid": meta.uid,
            **({"namespace": meta.namespace} if meta.namespace else {}),
        },
        "source": source,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        await kube.create(EVENTS, namespace, event)
    except (Expected, Conflict, NotFound) as error:
        log.warning("event not written", message=str(error))
