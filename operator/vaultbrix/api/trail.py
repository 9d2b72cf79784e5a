"""What became of an approval, on its way to the audit store: ``status.trail`` of DDLApprovals and AccessRules."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from vaultbrix.api.meta import ApiModel, Timestamp

FINALIZER = "vaultbrix.com/record"
"""Keeps an object until the audit store has all that became of it."""

MOST_WAITING = 16

EventText = Annotated[str, Field(max_length=1024)]
Mark = Annotated[str, Field(max_length=96)]


class Happened(StrEnum):
    """What happened. ``UNTOLD``: more than could be kept while the audit store was away."""

    REQUESTED = "Requested"
    DECIDED = "Decided"
    OPENED = "Opened"
    STARTED = "Started"
    ENDED = "Ended"
    WITHDRAWN = "Withdrawn"
    UNTOLD = "Untold"


class TrailEvent(ApiModel):
    """One thing that happened to an approval."""

    id: str = Field(max_length=64, description="Under which the audit store keeps it, once.")
    event: Happened
    at: Timestamp = Field(description="When it happened, or was seen first.")
    by: str = Field(default="", max_length=256, description="Who did it, as the object names them.")
    sha256: str = Field(default="", max_length=64, description="Of what was asked for, or decided on.")
    verdict: str = Field(default="", max_length=16)
    counts: bool | None = Field(default=None, description="Whether a decision counts.")
    reason: str = Field(default="", max_length=64, description="Why, or how it ended, in one word.")
    why: EventText = Field(default="", description="The same as a sentence.")
    message: EventText = Field(default="", description="What the person wrote.")
    terms: str = Field(default="", max_length=2048, description="What was asked for.")
    until: Timestamp | None = Field(default=None, description="When it ends by itself.")
    executed: int | None = Field(default=None, description="How many statements took effect for good.")


class Trail(ApiModel):
    """What happened and is not in the audit store yet, and what of the object as it is was told already."""

    server: str = Field(max_length=253, description="The PostgresServer whose audit store it is for.")
    next_id: int = 1
    noted: list[Mark] = Field(default=[], max_length=16)
    waiting: list[TrailEvent] = Field(default=[], max_length=MOST_WAITING + 1)
    full_since: Timestamp | None = Field(default=None, description="Since when there was no room for more.")
    message: EventText = Field(default="", description="Why the audit store has not got it yet.")
