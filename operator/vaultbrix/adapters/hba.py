"""pg_hba.conf on disk: our block spliced in, everything else kept, replaced whole or not at all."""

import os
import tempfile
from pathlib import Path

from vaultbrix.api.conditions import Reason
from vaultbrix.domain.render import splice_hba
from vaultbrix.runtime.errors import Transient


class HbaFile:
    """One pg_hba.conf (PostgreSQL 21.1). Owner, group and mode of the file are kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, block: str) -> bool:
        """Put our block first; False when it is there already. Raises Transient, leaving the old file."""
        try:
            old = self.path.read_bytes().decode("utf-8", "surrogateescape")
            new = splice_hba(old, block)
            if new == old:
                return False
            replace_file(self.path, new.encode("utf-8", "surrogateescape"), like=self.path)
        except OSError as error:
            raise Transient(Reason.AGENT_FAILED, f"pg_hba.conf: {error.strerror} ({self.path})") from None
        return True


def replace_file(path: Path, content: bytes, *, mode: int | None = None, like: Path | None = None) -> None:
    """Write a file so that a crash leaves the old one or the new one: temporary file, fsync, rename, fsync.

    The new file takes ``mode``, or owner, group and mode of the file ``like``.
    """
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if like is not None:
                known = like.stat()
                os.fchmod(handle, known.st_mode & 0o7777)
                _give(handle, known)
            elif mode is not None:
                os.fchmod(handle, mode)
            file.flush()
            os.fsync(handle)
        Path(partial).replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _give(handle: int, known: os.stat_result) -> None:
    try:
        os.fchown(handle, known.st_uid, known.st_gid)
    except PermissionError:
        # Without CAP_CHOWN the owner changes to us; PostgreSQL goes on reading the file by its group.
        os.fchown(handle, -1, known.st_gid)
