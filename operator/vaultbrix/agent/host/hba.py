"""pg_hba.conf on disk: our block put first, everything else kept, replaced whole or not at all."""

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

    def touched(self) -> bool:
        """Whether somebody else wrote the file since we did. Raises Transient."""
        return self._signature() != self._written

    def write(self, block: str) -> None:
        """Put our block first. Raises Transient, leaving the old file."""
        try:
            if self.touched():
                self._foreign = foreign_hba(self.path.read_bytes().decode("utf-8", "surrogateescape"))
            content = (block + self._foreign).encode("utf-8", "surrogateescape")
            replace_file(self.path, content, like=self.path)
            self._written = self._signature()
        except OSError as error:
            raise self._transient(error) from None

    def _signature(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError as error:
            raise self._transient(error) from None
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _transient(self, error: OSError) -> Transient:
        return Transient(Reason.HBA_FAILED, f"pg_hba.conf: {error.strerror} ({self.path})")
