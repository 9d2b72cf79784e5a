"""A tenant that takes all it can get of what all tenants share, again as soon as it was thrown out."""

import threading
from types import TracebackType
from typing import Self

from tests.harness.world import World

# Far more than PostgreSQL has room for. The sleep holds what the first statement got. Each session takes locks of its
# own, and waits for none that the one before still holds.
ALL_LOCKS = (
    "SELECT count(pg_advisory_lock(pg_backend_pid(), i)) FROM generate_series(1, 2000000) i",
    "SELECT pg_sleep(600)",
)
# Beyond the default limit, with room left for others.
MANY_LOCKS = (
    "SELECT count(pg_advisory_lock(pg_backend_pid(), i)) FROM generate_series(1, 40000) i",
    "SELECT pg_sleep(600)",
)
# 100 bytes each: 20 GB, were they let.
TEMPORARY_FILES = ("SELECT count(*) FROM (SELECT repeat('x', 96), i FROM generate_series(1, 200000000) i) g(x, i)",)
# Lines of a megabyte, without end.
LOG_FLOOD = ("DO $$ BEGIN LOOP RAISE LOG '%', repeat('x', 1000000); END LOOP; END $$",)
# Idle in a transaction that has a snapshot and listens, so that it holds back VACUUM and notifications.
IDLE_TRANSACTION = (
    "LISTEN anything",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "SELECT count(*) FROM pg_class",
    "\\! sleep 600",
)


class Attack:
    """Statements that one client sends in a session of its own, over and over, until the block ends."""

    def __init__(self, world: World, address: str, team: str, tenant: str, statements: tuple[str, ...]) -> None:
        self._psql = world.psql(address, team, tenant, *statements, keep_going=True)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.log = world.directory / f"attack-{address}.log"
        """What its clients said."""
        self.ended = 0
        """How many of its sessions have ended."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.is_set():
            process = self._psql.hold(self.log)
            while process.running and not self._over.wait(0.02):
                pass
            process.kill()
            self.ended += 1
