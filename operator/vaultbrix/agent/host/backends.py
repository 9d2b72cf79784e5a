"""Ends the processes that have certain sockets, by SIGTERM, without PostgreSQL's help.

A backend takes that for what pg_terminate_backend says. The agent may do so where it runs as PostgreSQL's user, or as
root of the machine; elsewhere the kernel shows it nobody's files, and nothing is done. A process is known by its
socket, never by a number that PostgreSQL told: that may be one of another process namespace.
"""

import contextlib
import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

_PROC = Path("/proc")


def end_owners(inodes: Collection[int], listening: Collection[int]) -> list[int]:
    """Send SIGTERM to the processes that have these sockets; returns the process ids of those that got it.

    Sockets are named by inode. A process that has one of ``listening`` is spared: the postmaster has a connection for a
    moment before it forks a backend, and SIGTERM would shut down the server.
    """
    wanted, spared = _names(inodes), _names(listening)
    return [pid for pid in _processes() if wanted and _end(pid, wanted, spared)]


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (proc_pid_stat(5), state T or t), so that it reacts to nothing."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return False
    # The name before it may have blanks and parentheses.
    return stat.rpartition(b") ")[2][:1] in (b"T", b"t")


def _names(inodes: Collection[int]) -> set[str]:
    return {f"socket:[{inode}]" for inode in inodes if inode}


def _processes() -> Iterator[int]:
    own = os.getpid()
    return (pid for path in _PROC.iterdir() if path.name.isdecimal() and (pid := int(path.name)) != own)


def _end(pid: int, wanted: set[str], spared: set[str]) -> bool:
    try:
        # Names the process even when its number is given to another one meanwhile.
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        files = set(_files(pid))
        if not files & wanted or files & spared:
            return False
        signal.pidfd_send_signal(process, signal.SIGTERM)
    except OSError:
        return False
    finally:
        os.close(process)
    return True


def _files(pid: int) -> Iterator[str]:
    """Yield what a process has open; raises OSError where that may not be seen."""
    for path in (_PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield str(path.readlink())
