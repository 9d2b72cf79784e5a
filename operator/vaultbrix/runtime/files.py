"""Replaces a file whole or not at all."""

import os
import tempfile
from pathlib import Path


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
