"""Which events of an approval are due, from what was told and what is; and an event as the audit store keeps it.

An event gets its id in the same write of the status that says what it is about. Whoever stores it afterwards, however
often, stores the same under that id.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vaultbrix.api.meta import Resource
from vaultbrix.api.trail import MOST_WAITING, Happened, Trail, TrailEvent

VERSION = 1


@dataclass(frozen=True)
class Fact:
    """Something that holds of an object as it is: ``mark`` names it, ``event`` tells it (without an id)."""

    mark: str
    event: TrailEvent


def fact(mark: str, event: Happened, at: datetime, **details: Any) -> Fact:
    """A fact whose texts are as the audit store can keep them, and no longer than it does."""
    texts = {name: _kept(name, value) if isinstance(value, str) else value for name, value in details.items()}
    return Fact(mark, TrailEvent(id="", event=event, at=at.replace(microsecond=0), **texts))


def advance(
    old: Trail | None, facts: Sequence[Fact], *, server: str, stored: Collection[str], message: str, now: datetime
) -> Trail:
    """The trail that belongs into the status. ``stored``: ids of events that the audit store has by now.

    What holds no longer is not remembered: should it hold again, it is told again.
    """
    old = old or Trail(server=server)
    waiting = [event for event in old.waiting if event.id not in stored]
    noted, number, full_since = [], old.next_id, old.full_since
    # A whole line of events that nobody could take leaves room for one that says so.
    if full_since is not None and not waiting:
        waiting.append(_numbered(TrailEvent(id="", event=Happened.UNTOLD, at=full_since), number))
        number, full_since = number + 1, None
    for each in facts:
        if each.mark not in old.noted:
            if full_since is not None or len(waiting) >= MOST_WAITING:
                full_since = full_since or now.replace(microsecond=0)
                continue
            waiting.append(_numbered(each.event, number))
            number += 1
        noted.append(each.mark)
    return Trail(
        server=server or old.server,
        next_id=number,
        noted=noted,
        waiting=waiting,
        full_since=full_since,
        message=message[:1024] if waiting else "",
    )


def settled(trail: Trail | None, facts: Sequence[Fact]) -> bool:
    """Whether the audit store has all that there is to tell."""
    if trail is None:
        return not facts
    return not trail.waiting and trail.full_since is None and all(each.mark in trail.noted for each in facts)


def document(resource: Resource, kind: str, tenant: str, server: str, event: TrailEvent) -> dict[str, Any]:
    """The detail of the event in the audit store. ``tenant`` is namespace/name."""
    meta = resource.metadata
    about = {"kind": kind, "namespace": meta.namespace, "name": meta.name, "uid": meta.uid}
    told = {name: value for name, value in event.dump().items() if value != ""}
    return {"version": VERSION, **about, "tenant": tenant, "server": server, **told}


def digest(*values: object) -> str:
    """A short hash of some values, for marks."""
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]


def _numbered(event: TrailEvent, number: int) -> TrailEvent:
    # With its content: of two that were made of different states, under one number, none is taken for the other.
    content = event.model_dump(mode="json", exclude={"id", "at"})
    return event.model_copy(update={"id": f"{number}-{digest(content)}"})


_LONGEST = {"by": 256, "terms": 2048, "reason": 64}


def _kept(name: str, text: str) -> str:
    # PostgreSQL holds no NUL, and no half of a character.
    clean = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return clean[: _LONGEST.get(name, 1024)]
