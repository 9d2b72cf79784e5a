"""The log directory as a stream of batches. The log on disk is the buffer.

Every file is followed, each from a position of its own: after a clock stepped back, PostgreSQL writes a file whose name
is not the newest. A position is known by the file's inode and by a fingerprint of what stands before it, since a file
may be overwritten in place, and an inode used again. Files that may still be written are kept open, so that what is
renamed or deleted is read to its end all the same.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from vaultbrix.api.conditions import Reason
from vaultbrix.audit.flow.report import Problem
from vaultbrix.audit.shipping.followed import CUT, Batch, File, Position
from vaultbrix.audit.shipping.logfile import Listing, Signature, fingerprint, listing, moved_files, signature

# A file that did not change for so long while another did is one that PostgreSQL has left.
QUIET_SECONDS = 3.0
# So long a file without a name is watched before it is let go, and another has to be written before one is removed.
WATCHED_SECONDS = 60.0
# What was written just now may be written again without a trace in the file's times.
_TRUSTED_SECONDS = 1.0
# Files kept open.
MOST_OPEN = 32
# Files of other formats are this much newer where PostgreSQL writes no JSON.
_OTHERS_NEWER_NS = 60_000_000_000


class LogDirectory:
    """The files of one log directory and how far each is stored. ``clock``: seconds, never set back."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._files: dict[str, File] = {}
        self._adopted = ""
        self._looks = 0
        # The latest look that showed a change.
        self._latest = 0
        self._opened: list[File] = []
        # Files to read before the next look.
        self._queue: deque[str] = deque()
        self._completed: dict[str, Position] = {}
        self._forgotten: dict[str, Position] = {}
        self._problems: dict[str, Problem] = {}

    def resume(self, positions: Mapping[str, Position], adopted: str = "") -> None:
        """Go on from what the store holds. ``adopted``: what has an older name was stored by an earlier release."""
        self._adopted = adopted
        for memory in (self._queue, self._completed, self._forgotten):
            memory.clear()
        copies = moved_files(self._path)
        for name in self._files.keys() | positions.keys():
            file = self._files.setdefault(name, File(name, self._clock()))
            file.position, file.settled, file.moved, file.copied = positions.get(name), False, None, False
            if file.position and (inode := copies.get((name, file.position.inode))):
                file.position, file.copied = replace(file.position, inode=inode, complete=False), True

    @property
    def positions(self) -> dict[str, Position]:
        """How far each file is stored."""
        return {name: file.position for name, file in list(self._files.items()) if file.position}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What keeps files from being read or removed."""
        problems = [problem for _, problem in sorted(self._problems.items())]
        if unreadable := self._unreadable():
            name, why = unreadable[0]
            more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
            remedy = "set log_file_mode = 0640 and let the shipper's group read the directory and its files"
            problems.append(Problem(Reason.LOG_UNREADABLE, f"{name}{more} cannot be read ({why}): {remedy}"))
        return tuple(problems)

    @property
    def looks(self) -> int:
        """How often the directory was looked at."""
        return self._looks

    @property
    def drained(self) -> bool:
        """Whether the last look showed nothing that is not read."""
        return not self._queue and "directory" not in self._problems and not self._unreadable()

    def written(self) -> dict[str, int]:
        """Bytes in each file that is followed. Raises OSError."""
        return {name: entry[1] for name, entry in listing(self._path).logs.items() if self._followed(name)}

    def unread(self) -> int:
        """Bytes that are in the directory and not stored. Raises OSError."""
        offsets = {name: position.offset for name, position in self.positions.items()}
        return sum(max(0, size - offsets.get(name, 0)) for name, size in self.written().items())

    def read(self) -> Batch | None:
        """The next batch; None where a look at all files shows nothing new."""
        if (batch := self._next()) is not None:
            return batch
        self._look()
        return self._next()

    def stored(self, batch: Batch) -> None:
        """Take over what a batch that is stored now stands for."""
        file = self._files[batch.file]
        if batch.position is None:
            self._drop(batch.file)
            return
        if file.position and file.position.inode != batch.position.inode:
            file.close()
        if file.moved:
            self._forgotten[file.moved] = batch.position
        file.position, file.settled, file.moved, file.copied = batch.position, False, None, False
        file.cut = file.cut and all(gap.reason != CUT for gap in batch.gaps)

    def marks(self) -> tuple[dict[str, Position], dict[str, Position]]:
        """Files that are complete and files to forget; the store does not know it yet."""
        return dict(self._completed), dict(self._forgotten)

    def marked(self) -> None:
        """Note that the store knows what ``marks`` gave."""
        self._completed.clear()
        self._forgotten.clear()

    def removable(self, keep: float, wall: float) -> list[str]:
        """Files that are stored and can go: not written for ``keep`` seconds, while another one was.

        ``wall``: seconds of the clock that file times are of. Where it was set back, ``keep`` counts from now on.
        """
        now = self._clock()
        latest = max((file.since for file in self._files.values() if file.changed == self._latest), default=now)
        names = []
        for name, file in sorted(self._files.items()):
            if file.gone or not file.settled or not file.complete or file.unread or name in self._completed:
                continue
            aged = max(now - file.since, wall - file.entry[2] / 1e9 if file.entry else 0.0)
            # The writer went elsewhere and went on there; a copy that somebody lays here comes all at once.
            left = file.changed < self._latest and latest - file.since >= min(keep, WATCHED_SECONDS)
            if left and aged >= keep:
                names.append(name)
        return names

    def remove(self, name: str) -> bool:
        """Delete a file that is stored. It stays open for a while: were it written all the same, it would be read."""
        file, path = self._files[name], self._path / name
        try:
            self._open(file)
            if signature(path.stat()) != file.entry:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            remedy = "make the log directory writable for the shipper's group (mode 2770)"
            self._problems["remove"] = Problem(
                Reason.LOG_MISCONFIGURED, f"stored log files cannot be removed ({error.strerror}): {remedy}"
            )
            return False
        self._problems.pop("remove", None)
        return True

    # What the directory shows

    def _look(self) -> None:
        now = self._clock()
        try:
            shown = listing(self._path)
        except OSError as error:
            remedy = "mount PostgreSQL's log_directory there and let the shipper's group read it"
            self._problems["directory"] = Problem(Reason.LOG_UNREADABLE, f"{self._path}: {error.strerror}; {remedy}")
            return
        self._problems.pop("directory", None)
        self._judge(shown)
        self._looks += 1
        logs = self._once(shown.logs)
        for name, file in list(self._files.items()):
            if name not in logs and not file.gone:
                file.gone, file.since = True, now
        for name, entry in logs.items():
            if self._followed(name):
                self._shown(name, entry, now)
        for file in list(self._files.values()):
            if file.gone and file.handle:
                self._note(file, signature(os.fstat(file.handle.fileno())), now)
            elif file.gone:
                self._vanished(file, anything=bool(logs))
        self._latest = max((file.changed for file in self._files.values()), default=0)
        self._queue = deque(
            sorted(
                name
                for name, file in self._files.items()
                if not file.settled or file.gone or (self._left(file) and not file.complete)
            )
        )

    def _judge(self, shown: Listing) -> None:
        if shown.others > shown.newest + _OTHERS_NEWER_NS or not shown.logs:
            remedy = "log_destination must hold jsonlog (and logging_collector be on)"
            self._problems["format"] = Problem(
                Reason.LOG_MISCONFIGURED, f"PostgreSQL writes no JSON log here: {remedy}"
            )
        else:
            self._problems.pop("format", None)

    def _once(self, logs: dict[str, Signature]) -> dict[str, Signature]:
        # A file with two names is read under the one that is known, or the first.
        names: dict[int, str] = {}
        for name in sorted(logs, key=lambda name: (not self._is_known(name, logs[name][0]), name)):
            names.setdefault(logs[name][0], name)
        return {name: logs[name] for name in names.values()}

    def _is_known(self, name: str, inode: int) -> bool:
        file = self._files.get(name)
        return file is not None and file.position is not None and file.position.inode == inode

    def _shown(self, name: str, entry: Signature, now: float) -> None:
        file = self._files.get(name)
        if file is None:
            # On the first look, nothing is known to have changed just now.
            file = self._files[name] = File(name, now, changed=self._looks if self._looks > 1 else 0)
        if file.position is None and file.handle is None:
            self._take_over(file, entry)
        self._note(file, entry, now)
        file.gone = False

    def _note(self, file: File, entry: Signature, now: float) -> None:
        # The last time changes with the name too.
        if file.entry is not None and file.entry[:3] != entry[:3]:
            file.changed, file.since = self._looks, now
            file.cut = file.cut or (entry[0] == file.entry[0] and entry[1] < file.size)
        file.settled = file.settled and file.entry == entry
        file.entry = entry

    def _take_over(self, file: File, entry: Signature) -> None:
        """The position of a file that had another name."""
        for other, known in list(self._files.items()):
            position = known.position
            # What is open keeps its inode.
            held = known.handle is not None and os.fstat(known.handle.fileno()).st_ino == entry[0]
            if known.gone and (held or (position and position.inode == entry[0] and self._holds(file.name, position))):
                if position:
                    file.position, file.moved = replace(position, complete=False), other
                file.changed, file.since, file.entry = known.changed, known.since, known.entry
                self._drop(other)
                return

    def _holds(self, name: str, position: Position) -> bool:
        """Whether a file is the one of which a position is known."""
        try:
            with (self._path / name).open("rb") as content:
                inode = os.fstat(content.fileno()).st_ino
                return inode == position.inode and fingerprint(content, position.offset) == position.fingerprint
        except OSError:
            return False

    def _vanished(self, file: File, *, anything: bool) -> None:
        # An empty directory is more likely one that is not mounted: its files are waited for.
        file.settled = not anything
        position = file.position
        if position is None:
            if not file.size:
                self._drop(file.name)
        elif position.complete or any(
            other.position and not other.gone and other.position.inode == position.inode and self._holds(twin, position)
            for twin, other in self._files.items()
            if other is not file
        ):
            self._forget(file)

    def _left(self, file: File) -> bool:
        """Whether PostgreSQL has left the file, and writes another one."""
        return file.changed < self._latest and self._clock() - file.since >= QUIET_SECONDS

    def _followed(self, name: str) -> bool:
        file = self._files.get(name)
        return name >= self._adopted or (file is not None and file.position is not None)

    def _unreadable(self) -> list[tuple[str, str]]:
        return sorted((name, file.problem) for name, file in list(self._files.items()) if file.problem)

    # What a file holds

    def _next(self) -> Batch | None:
        while self._queue:
            name = self._queue[0]
            file = self._files.get(name)
            batch = self._read_file(file) if file else None
            # Read as far as the look showed it; what came since waits for the next look, and the other files.
            if file is None or batch is None or batch.position is None or (batch.stop >= file.size and not batch.gaps):
                self._queue.popleft()
            if batch is not None:
                batch.full = any(self._files[name].unread > 0 for name in self._queue if name in self._files)
                return batch
        return None

    def _read_file(self, file: File) -> Batch | None:
        file.problem = None
        try:
            if file.gone and file.handle is None:
                return None if file.settled else file.lost()
            content = self._open(file)
            if not file.gone and file.entry and os.fstat(content.fileno()).st_ino != file.entry[0]:
                # Another file has its name now. What the old one still holds comes first.
                if file.position:
                    rest = file.read(content, left=True)
                    return rest if isinstance(rest, Batch) else file.overwritten()
                file.close()
                content = self._open(file)
            result = file.read(content, left=self._left(file))
        except FileNotFoundError:
            # Gone since it was listed: the next look tells.
            return None
        except OSError as error:
            file.problem = error.strerror or type(error).__name__
            return None
        if isinstance(result, Batch):
            return result
        if result is not None:
            file.position = self._completed[file.name] = result
        self._settle(file)
        return None

    def _settle(self, file: File) -> None:
        """Note that there is nothing to read of the file now."""
        still = self._clock() - file.since
        if file.gone and self._left(file) and still >= WATCHED_SECONDS:
            self._forget(file)
        elif not file.gone and still >= _TRUSTED_SECONDS:
            file.settled = True
            if file.complete:
                file.close()

    def _open(self, file: File) -> BinaryIO:
        if file.handle is None:
            file.handle = (self._path / file.name).open("rb", buffering=0)
            # A file that has no name any more is lost once it is closed.
            self._opened = [other for other in self._opened if other.handle and other is not file]
            named = [other for other in self._opened if not other.gone]
            if len(named) >= MOST_OPEN:
                min(named, key=lambda other: (other.changed, other.since)).close()
            self._opened.append(file)
        return file.handle

    def _forget(self, file: File) -> None:
        if file.position:
            self._forgotten[file.name] = file.position
        self._drop(file.name)

    def _drop(self, name: str) -> None:
        self._files.pop(name).close()
