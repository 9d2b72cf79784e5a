"""A reader that follows a log directory which a test writes."""

from pathlib import Path

from vaultbrix.audit.shipping.followed import Batch, Position
from vaultbrix.audit.shipping.reader import LogDirectory

FIRST, SECOND, THIRD = "pg-20261201-1.json", "pg-20261201-2.json", "pg-20261201-3.json"


class Follower:
    """Reads batch after batch as the shipper does, and starts anew when asked to. Its clock moves as told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 1000.0
        self.positions: dict[str, Position] = {}
        self.lines: list[tuple[str, int, bytes]] = []
        self.torn: list[tuple[str, int, bytes]] = []
        self.gaps: list[tuple[str, int]] = []
        self.restart()

    def restart(self) -> None:
        """A process that knows only what is stored."""
        self.log = LogDirectory(self.directory, lambda: self.now)
        self.log.resume(self.positions)

    def poll(self, after: float = 5.0) -> None:
        """All there is so many seconds later."""
        self.now += after
        while (batch := self.log.read()) is not None:
            self.take(batch)
        self.mark()

    def take(self, batch: Batch) -> None:
        """Store it."""
        self.log.stored(batch)
        if batch.position is None:
            self.positions.pop(batch.file, None)
        else:
            self.positions[batch.file] = batch.position
        self.lines += [(batch.file, position, line) for position, line in batch.lines]
        self.torn += [(batch.file, position, line) for position, line, _ in batch.damaged]
        self.gaps += [(gap.file, gap.position) for gap in batch.gaps]
        self.mark()

    def mark(self) -> None:
        """Store which files are complete or gone."""
        completed, forgotten = self.log.marks()
        self.positions.update(completed)
        for name in forgotten:
            self.positions.pop(name, None)
        self.log.marked()

    def texts(self) -> list[bytes]:
        return [line for _, _, line in self.lines]


def append(directory: Path, name: str, content: bytes) -> None:
    with (directory / name).open("ab") as file:
        file.write(content)
