"""``vaultbrix`` that kills itself right after a side effect: ``python dying.py FILE COMMAND…``.

The side effect is the one that FILE names at that moment; while there is no such file nothing is special. SIGKILL
leaves no chance to clean up, as a power cut of this process alone.
"""

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from vaultbrix.agent.host import sockets
from vaultbrix.agent.host.firewall import ChosenFirewall
from vaultbrix.agent.host.hba import HbaFile
from vaultbrix.agent.host.sessions import SessionControl
from vaultbrix.agent.watchdog.sight import TenantSessions
from vaultbrix.audit.trail import store as trails
from vaultbrix.cli.main import app
from vaultbrix.ddl.gate import logins, passes
from vaultbrix.grants.file import GrantsFile
from vaultbrix.kube.client import Kube
from vaultbrix.tenants import role, rule_logins
from vaultbrix.tenants.rotation import sessions

STEPS: dict[str, tuple[type | ModuleType, str]] = {
    "remembered": (GrantsFile, "append"),
    "pg_hba.conf written": (HbaFile, "write"),
    "PostgreSQL told to reload": (SessionControl, "reload"),
    "let in by the kernel": (ChosenFirewall, "allow"),
    "shut out by the kernel": (ChosenFirewall, "deny"),
    "connections listed": (sockets, "connections"),
    "sessions listed": (SessionControl, "sessions"),
    "sessions ended": (SessionControl, "terminate"),
    "sessions looked at": (TenantSessions, "look"),
    "connections cut": (sockets, "destroy"),
    "sessions that take too much ended": (TenantSessions, "terminate"),
    "load confirmed": (SessionControl, "asks_for_password"),
    "reported": (Kube, "apply"),
    "finalizer written": (Kube, "merge"),
    "pass issued": (passes, "issue_pass"),
    "login made": (logins, "create_login"),
    "Secret written": (Kube, "apply"),
    "Job made": (Kube, "create"),
    "Secret made": (Kube, "create"),
    "Secret replaced": (Kube, "replace"),
    "Secret deleted": (Kube, "delete"),
    "whoever had it shut out": (role, "prepare"),
    "role adopted": (role, "provision"),
    "role provisioned": (role, "provision"),
    "sessions of a leak ended": (sessions, "end_sessions"),
    "second login provisioned": (rule_logins, "provision"),
    "login dropped": (logins, "drop_login"),
    "pass revoked": (passes, "revoke_pass"),
    "put on record": (trails, "note"),
}


def of_kind(kind: str) -> Callable[[tuple[Any, ...]], bool]:
    """Whether a request to the API server is for that kind."""
    return lambda arguments: getattr(arguments[1], "kind", "") == kind


# Which call is meant, where there are others.
MEANT: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "Secret written": of_kind("Secret"),
    "Job made": of_kind("Job"),
    "Secret made": of_kind("Secret"),
    "Secret replaced": of_kind("Secret"),
    "Secret deleted": of_kind("Secret"),
    "role adopted": lambda arguments: arguments[2].agreed,
}


def die_after(file: Path, step: str, owner: type | ModuleType, name: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def die_if_asked() -> None:
        if file.exists() and file.read_text() == step:
            os.kill(os.getpid(), signal.SIGKILL)

    if name in ("append", "write", "allow", "deny", "connections", "destroy"):

        @functools.wraps(original)
        def replaced(*arguments: Any, **named: Any) -> Any:
            answer = original(*arguments, **named)
            die_if_asked()
            return answer

        setattr(owner, name, replaced)
        return

    @functools.wraps(original)
    async def replaced_later(*arguments: Any, **named: Any) -> Any:
        try:
            answer = await original(*arguments, **named)
        except asyncio.CancelledError:
            # Nobody waits for it any longer, but it is had all the same.
            die_if_asked()
            raise
        if step not in MEANT or MEANT[step](arguments):
            die_if_asked()
        return answer

    setattr(owner, name, replaced_later)


if __name__ == "__main__":
    asked = Path(sys.argv.pop(1))
    for step_, (owner_, name_) in STEPS.items():
        die_after(asked, step_, owner_, name_)
    app()
