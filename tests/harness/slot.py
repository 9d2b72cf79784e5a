"""Which addresses, ports and names are this process's own: a number that no other run on this machine has.

A run that was killed leaves processes and namespaces that would answer in its place; who takes its number over ends
them. Workers of pytest-xdist are processes like any other.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

LOCKS = Path("/run/lock/vaultbrix-tests")
MOST = 60
TEMPORARY = Path(tempfile.gettempdir())


def _claim() -> tuple[int, IO[str]]:
    """The first number that is free; it is ours as long as the file is open, however this process ends."""
    LOCKS.mkdir(exist_ok=True)
    for number in range(MOST):
        file = (LOCKS / str(number)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        return number, file
    raise RuntimeError(f"{MOST} runs of the tests hold their locks in {LOCKS}")


def _is_leftover(process: Path, mark: bytes) -> bool:
    """Whether its command or its environment names a folder of the run before us."""
    if not process.name.isdecimal() or process.name == str(os.getpid()):
        return False
    try:
        return any(mark in (process / name).read_bytes() for name in ("cmdline", "environ"))
    except OSError:
        return False


def _end_leftovers(number: int) -> None:
    mark = f"/vaultbrix-test-{number}-".encode()
    for process in Path("/proc").iterdir():
        if _is_leftover(process, mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
    # Links first: a namespace goes later than its name, and its link would compete with the next one of its address.
    links, namespaces = Path("/sys/class/net"), Path("/run/netns")
    for kind, folder in (("link", links), ("netns", namespaces)):
        for found in (*folder.glob(f"vbx[a-z]{number}"), *folder.glob(f"vbx[a-z]{number}[a-z]*")):
            subprocess.run(["ip", kind, "del", found.name], check=False, capture_output=True)
    for line in Path("/proc/mounts").read_text().splitlines():
        if (target := line.split()[1]).encode().startswith(str(TEMPORARY).encode() + mark):
            subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
    for found in (*Path("/etc/netns").glob(f"vbx[a-z]{number}"), *TEMPORARY.glob(f"vaultbrix-test-{number}-*")):
        shutil.rmtree(found, ignore_errors=True)


SLOT, _LOCK = _claim()
_end_leftovers(SLOT)


def folder() -> Path:
    """A new folder that every user may enter; whoever asked for it removes it, at the latest the next run does."""
    path = Path(tempfile.mkdtemp(prefix=f"vaultbrix-test-{SLOT}-"))
    path.chmod(0o755)
    return path
