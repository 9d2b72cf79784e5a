"""What one statement does to what is there already: what is lost, locked, rewritten."""

from dataclasses import dataclass
from enum import IntEnum

from vaultbrix.api.ddlapproval import Danger

_ORDER = list(Danger)


class Lock(IntEnum):
    """Table-level locks from weakest to strongest (PostgreSQL 13.3.1)."""

    NONE = 0
    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    @property
    def label(self) -> str:
        """As ``pg_locks.mode`` has it; empty for none."""
        return "" if self is Lock.NONE else self.name.title().replace("_", "") + "Lock"


@dataclass(frozen=True)
class Effect:
    """What one statement or sub-command of ALTER TABLE does; ``|`` is what two of them do together.

    ``lock`` is the strongest on a table, view, index or sequence that was there before. ``additive`` speaks of
    statements that the gate sees only.
    """

    danger: Danger = Danger.NONE
    lock: Lock = Lock.NONE
    rewrites: bool = False
    transactional: bool = True
    additive: bool = False
    notes: tuple[str, ...] = ()

    def __or__(self, other: "Effect") -> "Effect":
        return Effect(
            worst(self.danger, other.danger),
            max(self.lock, other.lock),
            self.rewrites or other.rewrites,
            self.transactional and other.transactional,
            self.additive and other.additive,
            (*self.notes, *(note for note in other.notes if note not in self.notes)),
        )


def worst(*dangers: Danger) -> Danger:
    """The worst of them, in the order in which the API lists them."""
    return max(dangers, key=_ORDER.index, default=Danger.NONE)
