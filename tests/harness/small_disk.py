"""A small filesystem of its own, that can be full."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.harness.shell import run


class Disk:
    """An ext4 of so many MiB, mounted at ``path``."""

    def __init__(self, path: Path, mebibytes: int) -> None:
        path.mkdir(exist_ok=True)
        self.path = path
        self._ballast = path / "ballast"
        image = path.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(mebibytes * 1024 * 1024)
        # Nothing is set aside for root, so that full is full for everybody.
        run("mkfs.ext4", "-q", "-m", "0", image)
        run("mount", "-o", "loop", image, path)
        path.chmod(0o755)

    def fill(self) -> None:
        """Leave nothing free."""
        found = os.statvfs(self.path)
        # Most of it at once; what the filesystem needs for itself is not told.
        size = max(1, found.f_bavail * found.f_frsize - 4 * 1024 * 1024)
        with self._ballast.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, size)
            file.seek(0, os.SEEK_END)
            refused = 0
            while refused < 3:
                try:
                    file.write(bytes(4096))
                    refused = 0
                except OSError:
                    refused += 1
                    # What is set aside for writes that wait is free again once they are done.
                    os.sync()

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take it away."""
        run("umount", "--lazy", self.path)


@contextlib.contextmanager
def disks(path: Path, **mebibytes: int) -> Iterator[dict[str, Disk]]:
    """Several, by name, in a directory; unmounted afterwards."""
    made: dict[str, Disk] = {}
    try:
        for name, size in mebibytes.items():
            made[name] = Disk(path / name, size)
        yield made
    finally:
        for disk in made.values():
            disk.unmount()
