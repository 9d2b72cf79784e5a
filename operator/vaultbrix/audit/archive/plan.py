"""What to export, decided from what the store holds. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import quote

from vaultbrix.audit.seal import record_part

# A session's lines may be written in another order than their times tell.
SETTLED = timedelta(minutes=1)
MOST_ROWS = 1_000_000
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Piece:
    """The rows of one file: a partition's, of one server, of batches ``first`` to ``last``."""

    server: str
    keep: int
    first: int
    last: int
    rows: int

    @property
    def name(self) -> str:
        """Its file's name; a server's may be longer than a file's, and hold anything."""
        server = quote(self.server, safe="")
        if len(server) > _LONGEST_NAME:
            server = hashlib.sha256(self.server.encode()).hexdigest()
        return f"record-{self.keep}-{server}-{self.first}-{self.last}.parquet"


def waiting_for(day: date, newest: Mapping[str, datetime | None], *, now: datetime) -> str | None:
    """Why a day cannot be exported yet, None when it can. ``newest``: time of a stored record after it, by server.

    A shipper reads files in the order of their names; with a later line stored, the day's lines are stored too. What
    comes late all the same is a supplement.
    """
    end = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
    if now < end + SETTLED:
        return "it is not over yet (UTC)"
    behind = sorted(server for server, at in newest.items() if at is None or at < end)
    if behind:
        return f"no record after it is stored yet from {', '.join(behind)}"
    return None


def pieces(parts: Iterable[tuple[str, int, int, int]], most: int) -> list[Piece]:
    """Files for parts (server, keep, batch, leaves), at most so many rows each unless one batch alone has more."""
    planned: list[Piece] = []
    for server, keep, batch, leaves in sorted(parts):
        last = planned[-1] if planned else None
        if last and (last.server, last.keep) == (server, keep) and last.rows + leaves <= most:
            planned[-1] = Piece(server, keep, last.first, batch, last.rows + leaves)
        else:
            planned.append(Piece(server, keep, batch, batch, leaves))
    return planned


def part_names(day: date, keeps: Iterable[int]) -> dict[str, int]:
    """Days to keep by name of part."""
    return {record_part(day, keep): keep for keep in keeps}


def parts_to_export(
    parts: Iterable[tuple[str, int, int, int]],
    day: date,
    after: Mapping[str, int],
    upto: Mapping[str, int],
    dropped: Mapping[str, Mapping[str, int]],
) -> list[tuple[str, int, int, int]]:
    """Select of a day's parts (server, keep, batch, leaves) those with after < batch ≤ upto that retention left."""
    return [
        (server, keep, batch, leaves)
        for server, keep, batch, leaves in parts
        if max(after.get(server, 0), dropped.get(record_part(day, keep), {}).get(server, 0)) < batch <= upto[server]
    ]
