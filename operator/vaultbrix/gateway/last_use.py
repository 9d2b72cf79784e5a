"""When each key was last let in, told to its object at most once a minute."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from vaultbrix.api.apikey import APIKey
from vaultbrix.api.meta import rfc3339
from vaultbrix.gateway.known import ObjectKey
from vaultbrix.kube.client import Conflict, Kube, NotFound
from vaultbrix.kube.resources import resource_type
from vaultbrix.kube.store import Store
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

INTERVAL = timedelta(minutes=1)
_PAUSE_SECONDS = 10.0
_WRITES_AT_ONCE = 4


def is_due(api_key: APIKey, used: datetime) -> bool:
    """Whether the object is to be told of a use; another replica may have told it of a later one."""
    known = api_key.status.last_used_at
    return known is None or used - known >= INTERVAL


async def write_last_use(
    kube: Kube, api_keys: Store[APIKey], used: Mapping[ObjectKey, datetime], *, pause: float = _PAUSE_SECONDS
) -> None:
    """Tell the objects of uses every ``pause`` seconds until cancelled. What cannot be written now is written later."""
    slots = asyncio.Semaphore(_WRITES_AT_ONCE)

    async def write(api_key: APIKey, at: datetime) -> None:
        meta = api_key.metadata
        where = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
        async with slots:
            try:
                body = {"metadata": where, "status": {"lastUsedAt": rfc3339(at)}}
                await kube.apply(resource_type(APIKey), body, subresource="status")
            except (NotFound, Conflict):
                pass
            except Expected as error:
                log.warning("the last use of a key was not written", key=api_key.display, message=error.message)

    while True:
        await asyncio.sleep(pause)
        due = [(held, at) for name, at in list(used.items()) if (held := api_keys.get(*name)) and is_due(held, at)]
        await asyncio.gather(*(write(held, at) for held, at in due))
