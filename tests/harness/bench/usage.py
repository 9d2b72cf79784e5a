"""What processes have used: memory now, processor time so far (proc(5))."""

import os
from collections.abc import Iterable
from pathlib import Path

from tests.harness.processes import children

TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *children(pid)]


def resident_mib(pids: Iterable[int]) -> float:
    """Memory that is resident, in MiB; what processes share counts for each."""
    return sum(_field(pid, "VmRSS:") for pid in pids) / 1024


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of processes that are still there, their own and the kernel's for them."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def _field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
