"""Run a command with the person's client for the cluster: its exit code, and one clear line when it goes wrong."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn

import typer

from vaultbrix.cli.output import warn
from vaultbrix.kube.client import Conflict, Gone, Kube, NotFound
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.errors import Expected, Transient
from vaultbrix.runtime.usage import Misused, Refused


@dataclass(frozen=True)
class Where:
    """-n and --context; empty ones are the kubeconfig's."""

    namespace: str = ""
    context: str = ""


def act(where: Where, work: Callable[[PersonClient], Coroutine[Any, Any, int]]) -> NoReturn:
    """Run a command to its exit code: 0, 1 after a failure, 2 for wrong usage; failures as one line on stderr."""
    # What its libraries say of a kubeconfig is said again by the error.
    logging.getLogger("kubernetes").setLevel(logging.ERROR)
    try:
        code = asyncio.run(_act(where, work))
    except Misused as error:
        warn(f"error: {error}")
        code = 2
    except (Refused, Conflict, Gone, NotFound) as error:
        warn(f"error: {error}")
        code = 1
    except Expected as error:
        warn(f"error: {error.message}")
        code = 1
    raise typer.Exit(code)


async def _act(where: Where, work: Callable[[PersonClient], Coroutine[Any, Any, int]]) -> int:
    kube = Kube("vaultbrix-cli", context=where.context)
    client = PersonClient(
        kube,
        namespace=where.namespace,
        context=where.context,
        report_unreadable=lambda problem: warn(f"warning: {problem}"),
    )
    try:
        return await work(client)
    except Transient as error:
        raise Transient(
            error.reason,
            f"{error.message}; is {await kube.address()} reachable from here? check network, VPN and the "
            "context of your kubeconfig",
        ) from None
    finally:
        await asyncio.shield(kube.close())
