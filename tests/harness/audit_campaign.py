"""An audited database under load, its shippers and store on small disks, what is done to them, and the oracle."""

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.harness import audit_oracle
from tests.harness.audit_oracle import Verdict, Version
from tests.harness.audit_store import Store
from tests.harness.audited_load import Load
from tests.harness.database import Database, directory, free_port
from tests.harness.processes import Process
from tests.harness.shell import wait_for
from tests.harness.shipping import JANE, Shipping
from tests.harness.small_disk import Disk, disks

from vaultbrix.ddl.gate import schema

SERVER = "main"


class Campaign(Shipping):
    """Two shippers of one log, and a copy of every file that is about to be damaged."""

    def __init__(self, path: Path, database: Database, store: Store, log: Disk, full: Disk, rate: int) -> None:
        super().__init__(path, database, store)
        self.log_disk, self.store_disk = log, full
        self.load = Load(database, path, rate=rate)
        self.second = self.another("second")
        self.kills = 0
        seed = random.randrange(2**32)
        print("seed", seed)
        self.random = random.Random(seed)
        self._kept = log.path / "kept"
        self._kept.mkdir()
        self._damaged: list[Version] = []
        self._opened = datetime.now(UTC) - timedelta(minutes=1)
        self.open_grants(self.load.roles[0])

    @property
    def shippers(self) -> tuple[Process, Process]:
        """Both of them, which compete all the time."""
        return self.shipper, self.second

    def start(self) -> None:
        """Load and shippers, those that do not run."""
        self.load.start()
        for shipper in self.shippers:
            if not shipper.running:
                shipper.start()

    def stop(self) -> None:
        """End all but the store and the database."""
        self.load.stop()
        for shipper in self.shippers:
            shipper.stop()

    def kill(self, *victims: Process) -> None:
        """SIGKILL."""
        for victim in victims:
            victim.kill()
            self.kills += 1

    def batch(self) -> int:
        """Number of the last batch in the store."""
        rows = self.store.query("SELECT batch FROM audit.checkpoint WHERE server = %s", [SERVER])
        return int(rows[0][0]) if rows else 0

    def progress(self, batches: int = 1) -> None:
        """Wait for so many more batches."""
        before = self.batch()
        wait_for("batches are stored", lambda: self.batch() >= before + batches, patience=60, tell=self.told)

    def told(self) -> str:
        """What the shippers say."""
        return "\n".join(shipper.text() for shipper in self.shippers)

    # Files.

    def files(self) -> list[Path]:
        """Log files in the order of their names."""
        return sorted(self.postgres.logs.glob("*.json"))

    def rotate(self) -> Path:
        """Have PostgreSQL begin a file; returns the one that it left, which it writes no more."""
        before = self.files()

        def rotated() -> bool:
            self.postgres.query("SELECT pg_rotate_logfile()")
            return len(self.files()) > len(before)

        # A name has whole seconds.
        wait_for("there is a new file", rotated, pause=0.3)

        def writes() -> bool:
            newest = self.files()[-1]
            size = newest.stat().st_size
            self.postgres.query("SELECT 1")
            return self.files()[-1] == newest and newest.stat().st_size > size

        # Another one may have been on its way.
        wait_for("the new file is written", writes)
        self.keep()
        return before[-1]

    def keep(self) -> None:
        """Hold on to every file that is there, so that its removal leaves it to the oracle."""
        for path in self.files():
            with contextlib.suppress(FileExistsError):
                os.link(path, self._kept / path.name)

    def unread(self) -> Path:
        """A file that PostgreSQL has left, stored in part only, with no shipper running."""
        self.rotate()
        current = self.begun()
        self.kill(*self.shippers)
        size = self.stored(current) + 20_000
        wait_for("more of it is there", lambda: current.stat().st_size > size, tell=self.told)
        left = self.rotate()
        assert left == current and self.stored(left) < left.stat().st_size
        return left

    def begun(self) -> Path:
        """The file that PostgreSQL writes, once some of it is stored.

        A file that was made and destroyed between two looks of a shipper leaves holes in sessions that go on, and
        nothing of those that began and ended in it.
        """
        current = self.files()[-1]
        wait_for("some of it is stored", lambda: self.stored(current) > 0, patience=60, tell=self.told)
        return current

    def damage(self, path: Path) -> None:
        """Keep a file as it is now; what comes next destroys it."""
        copy = self._kept / f"{path.name}.{len(self._damaged)}"
        shutil.copy(path, copy)
        # Or the inode would never be free for another file.
        (self._kept / path.name).unlink(missing_ok=True)
        self._damaged.append(Version(path.name, copy, damaged=True))

    def stored(self, path: Path) -> int:
        """How far a file is stored, in bytes."""
        rows = self.store.query("SELECT position FROM audit.logfile WHERE file = %s", [path.name])
        return int(rows[0][0]) if rows else 0

    # The source.

    def children(self) -> dict[str, int]:
        """The postmaster's processes: title → pid."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == self.postgres.process.pid:
                    found[(process / "cmdline").read_text().strip("\0 ")] = int(process.name)
        return found

    @property
    def logger(self) -> int:
        """Pid of the process that writes the log."""
        return next(pid for title, pid in self.children().items() if "logger" in title)

    def crash(self) -> None:
        """SIGKILL the postmaster, and start again once all of its processes have gone."""
        left = self.children().values()
        self.postgres.process.kill()
        wait_for("its processes have ended", lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
        self.postgres.start()

    # The end.

    def judge(self) -> Verdict:
        """End the load and the source, so that nothing more is written; wait until all is stored; ask the oracle."""
        self.load.stop()
        self.postgres.stop()
        self.settle()
        wait_for("holes are told", lambda: not self.store.query("SELECT 1 FROM audit.missing"), tell=self.told)
        self.stop()
        self.keep()
        versions = [*self._damaged]
        names = {path.name for path in self.files()}
        versions += [Version(path.name, path) for path in self.files()]
        versions += [Version(path.name, path) for path in sorted(self._kept.glob("*.json")) if path.name not in names]
        with self.store.open(options=audit_oracle.SETTINGS) as connection:
            verdict = audit_oracle.judge(connection, SERVER, versions, self.store.public_key, self._person)
        assert "Traceback" not in self.told(), self.told()
        return verdict

    def _person(self, role: str, at: datetime) -> tuple[str, str, str]:
        known = role == self.load.roles[0] and at + timedelta(seconds=5) >= self._opened
        return (f"team/{role}", JANE, "team/jane") if known else ("", "", "")


@contextlib.contextmanager
def campaign(rate: int = 20) -> Iterator[Campaign]:
    """All of it, running; stopped and unmounted afterwards. ``rate``: transactions a second of each tenant."""
    with directory() as path, disks(path, log=2000, full=4000) as made, contextlib.ExitStack() as stack:
        logs = made["log"].path / "log"
        database = Database(path, {"log_directory": str(logs)})
        logs.mkdir()
        shutil.chown(logs, "postgres", "postgres")
        logs.chmod(0o750)
        database.postgres.logs = logs
        store = Store(made["full"].path / "store", port=free_port())
        stack.callback(store.stop)
        store.start()
        stack.callback(database.postgres.stop)
        database.postgres.start()
        database.admin(schema.install)
        parts = Campaign(path, database, store, made["log"], made["full"], rate)
        stack.callback(parts.stop)
        parts.start()
        yield parts
