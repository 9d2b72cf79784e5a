"""What a shipper says of the record's flow, in ``flow.json`` beside PostgreSQL."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from vaultbrix.api.conditions import Reason

LONGEST_MESSAGE = 512
MOST_PROBLEMS = 8
MOST_LOUD = 16


@dataclass(frozen=True)
class Problem:
    """Something that keeps the record from flowing, or soon will. The message names the setting and the remedy."""

    reason: Reason
    message: str


class Head(BaseModel):
    """The latest sealed batch of a server: its number and the hash of its header (hex)."""

    model_config = ConfigDict(frozen=True)

    batch: int
    head: str
    sealed_at: datetime


class LoudSession(BaseModel):
    """A session that wrote much into PostgreSQL's log: so many bytes within the ``minute`` that begins then.

    ``pid`` and ``started_at``, in whole seconds, name it as pg_stat_activity does (``pid``, ``backend_start``).
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    started_at: datetime
    role: str
    minute: datetime
    bytes: int


class Flow(BaseModel):
    """How the record stood at ``at``. Counts are since the shipper started; times in UTC.

    ``complete_until``: all that PostgreSQL had logged by then is stored. ``late_seconds`` is how long ago that was, by
    a clock that is never set. ``unread_bytes`` are in the log directory and not stored. None: not known yet. ``loud``
    are the sessions that wrote most into the log within a minute, of what was read in the last two.
    """

    model_config = ConfigDict(frozen=True)

    server: str
    at: datetime
    complete_until: datetime | None = None
    late_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    stored_at: datetime | None = None
    unread_bytes: int | None = None
    latest: Head | None = None
    gaps: int = 0
    quarantined: int = 0
    forged: int = 0
    loud: Annotated[tuple[LoudSession, ...], Field(max_length=MOST_LOUD)] = ()
    problems: Annotated[tuple[Problem, ...], Field(max_length=MOST_PROBLEMS)] = ()
