"""What a migration tool has in common with others: a project of three migrations; one creates, one adds, one drops.

The projects hold the same schema in each tool's own way. ``release`` puts the migrations up to a number into the
project, as a new release of an application does; ``migrate`` is the one command that brings them to the database.
"""

import re
from abc import ABC, abstractmethod
from typing import ClassVar

from tests.harness.tool_client import PROJECTS, Client, Done, kit

NAMES = {1: "create", 2: "add", 3: "drop"}


class Tool(Client, ABC):
    """A migration tool with its project."""

    applied: ClassVar[str]
    """SQL for what the tool's own table says is applied, one row each."""
    shows: ClassVar[frozenset[str]] = frozenset({"detail", "hint"})
    """Which parts of PostgreSQL's error, beside its message, the tool passes on to its user."""
    messages: ClassVar[int] = 2
    """In how many messages with something gated the third migration is sent."""
    resumes: ClassVar[bool] = True
    """Whether a migration that was refused in its midst is simply run again, nothing of it being done."""
    keeps: ClassVar[bool] = True
    """Whether the migrations before a refused one stay, when one run brings several: each is a transaction."""
    additive: ClassVar[bool] = True
    """Whether the additive policy lets the second migration through, and the tool's own bookkeeping."""

    nested: ClassVar[bool] = False
    """Whether what it changes is in functions or DO blocks, which an approval has to allow."""

    @abstractmethod
    def release(self, number: int) -> None:
        """The project as it is with migrations up to that number."""

    @abstractmethod
    def migrate(self) -> Done:
        """Bring all migrations of the project to the database; however that ends."""

    @abstractmethod
    def text(self, number: int) -> str:
        """The text for an approval of that migration, by the means that the tool gives its users."""

    def recover(self, number: int) -> None:
        """After a refusal of that migration, what the tool wants before its command is run again."""

    def begin(self) -> str:
        """What an admin has to approve before the first migration; most tools need nothing."""
        return ""

    def _sql(self, number: int, pattern: str, before: str = "") -> None:
        """The migrations that are plain SQL, named as the tool wants it."""
        for n in range(1, number + 1):
            path = self.folder / pattern.format(number=n, name=NAMES[n])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(before + plain(n))

    def _modules(self) -> None:
        """What npm has installed, as the project's own."""
        if not (modules := self.folder / "node_modules").exists():
            modules.symlink_to(kit("npm") / "node_modules")


def plain(number: int) -> str:
    """A migration as plain SQL."""
    return (PROJECTS / "sql" / f"{number}_{NAMES[number]}.sql").read_text()


def without_transaction(script: str) -> str:
    """A script that a tool printed, without the transaction around it, which an approval must not hold."""
    return re.sub(r"^(BEGIN|COMMIT);\n?", "", script, flags=re.MULTILINE)
