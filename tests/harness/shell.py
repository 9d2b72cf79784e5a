"""Commands and waiting, with failures that say what happened."""

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

TOP = Path(__file__).resolve().parent.parent.parent
PATIENCE = 60.0


def run(
    *command: str | Path,
    check: bool = True,
    input_text: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a command; one that fails is an AssertionError with all that it said."""
    done = subprocess.run(
        [*map(str, command)],
        input=input_text,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=timeout,
    )
    if check and done.returncode:
        raise AssertionError(f"exit {done.returncode}: {shlex.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done


def wait_for(
    what: str, probe: Callable[[], T | None], *, patience: float = PATIENCE, pause: float = 0.05, tell: object = None
) -> T:
    """Call until the answer is true; returns it. ``tell`` is called for the error message, to say how things stand.

    Between two calls pass ``pause`` seconds, or as long as a call takes: who is waited for needs the processor, too.
    """
    deadline = time.monotonic() + patience
    while True:
        begun = time.monotonic()
        answer = probe()
        if answer:
            return answer
        now = time.monotonic()
        if now > deadline:
            more = f"\n{tell()}" if callable(tell) else ""
            raise AssertionError(f"not after {patience:.0f} s: {what}{more}")
        time.sleep(max(pause, now - begun))


def binaries() -> Path:
    """Where hack/cluster keeps kubectl, helm, etcd and kube-apiserver; built there by ``make cluster-up`` or setup."""
    return Path(run(TOP / "hack/cluster/path").stdout.strip())
