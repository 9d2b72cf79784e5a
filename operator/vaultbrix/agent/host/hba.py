"""pg_hba.conf on disk: our block comes first, everything else is kept, and the file is replaced whole or not at all."""

from pathlib import Path

from vaultbrix.agent.host.hba_text import foreign_hba
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient
from vaultbrix.runtime.files import replace_file


class HbaFile:
    """One pg_hba.conf (PostgreSQL 21.1). Owner, group and mode of the file are kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._foreign = ""
        self._written: tuple[int, ...] = ()

    def changed_by_others(self) -> bool:
        """Whether somebody else wrote the file since we did. Raises Transient."""
        return self._signature() != self._written

    def write(self, block: str) -> None:
        """Write the file with this block first. Raises Transient, leaving the old file."""
        try:
            if self.changed_by_others():
                self._foreign = foreign_hba(self.path.read_bytes().decode("utf-8", "surrogateescape"))
            content = (block + self._foreign).encode("utf-8", "surrogateescape")
            replace_file(self.path, content, like=self.path)
            self._written = self._signature()
        except OSError as error:
            raise self._transient(error) from None

    def _signature(self) -> tuple[int, ...]:
        try:
            stat = self.path.stat()
        except OSError as error:
            raise self._transient(error) from None
        return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def _transient(self, error: OSError) -> Transient:
        return Transient(Reason.HBA_FAILED, f"pg_hba.conf: {error.strerror} ({self.path})")
