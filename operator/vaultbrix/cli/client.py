"""A person's way to the cluster: objects by name, and one clear line for everything that goes wrong."""

import asyncio
import difflib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from vaultbrix.access import echo
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import GROUP
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.cli.output import warn
from vaultbrix.kube.client import Conflict, Gone, Kube, NotFound, Object, default_namespace, resource_type
from vaultbrix.kube.store import R
from vaultbrix.runtime.addresses import Address
from vaultbrix.runtime.errors import Blocked, Expected, Transient
from vaultbrix.runtime.usage import Misused, Refused

# How often an object that is waited for is read.
PAUSE_SECONDS = 0.3


class Failed(Exception):
    """The command ends here; the message is for the person."""


@dataclass(frozen=True)
class Where:
    """-n and --context; empty ones are the kubeconfig's."""

    namespace: str = ""
    context: str = ""


class User:
    """The API server with the rights of the person, and the namespace that names are looked up in."""

    def __init__(self, kube: Kube, where: Where) -> None:
        self.kube = kube
        self._where = where

    @cached_property
    def namespace(self) -> str:
        """From -n, or of the kubeconfig's context. Raises Blocked without a kubeconfig."""
        return self._where.namespace or default_namespace(self._where.context)

    async def find(self, model: type[R], name: str) -> R:
        """The object of that name. Raises Failed, with what may have been meant."""
        kind = resource_type(model)
        try:
            return _parse(model, await self.kube.get(kind, self.namespace, name))
        except NotFound:
            raise Failed(await self._missing(model, name)) from None

    async def objects(self, model: type[R], namespace: str) -> list[R]:
        """All objects of a namespace, or of all where it is empty; one that cannot be read is told and left out."""
        return self.read(model, (await self.raw(model, namespace))["items"])

    async def permitted(self, model: type[R], namespace: str) -> list[R]:
        """As objects; none where the person may not see them."""
        try:
            return await self.objects(model, namespace)
        except Blocked as error:
            if error.reason is not Reason.FORBIDDEN:
                raise
            return []

    async def raw(self, model: type[R], namespace: str) -> Object:
        """As objects, as the API server answers."""
        try:
            return await self.kube.list(resource_type(model), namespace)
        except NotFound:
            raise Failed(
                f"this cluster has no Vaultbrix: its API server does not know {resource_type(model).plural}.{GROUP}; "
                "check the context of your kubeconfig"
            ) from None

    @staticmethod
    def read(model: type[R], items: list[Object]) -> list[R]:
        """Objects of a list; one that cannot be read is told and left out."""
        found = []
        for item in items:
            try:
                found.append(_parse(model, item))
            except Failed as error:
                warn(f"warning: {error}")
        return found

    async def server_of(self, tenant: Tenant) -> tuple[PostgresServer | None, bool]:
        """The tenant's server and whether it is hidden: None, True for a person who may not read it."""
        try:
            found = await self.kube.get(resource_type(PostgresServer), "", tenant.spec.server_ref.name)
        except NotFound:
            return None, False
        except Blocked as error:
            if error.reason is not Reason.FORBIDDEN:
                raise
            return None, True
        return _parse(PostgresServer, found), False

    async def own_address(self, option: str, tenant: Tenant) -> Address:
        """For ``me``: the person's address as the tenant's server sees it. Raises Failed."""
        server, hidden = await self.server_of(tenant)
        give = f"give the address instead: {option} 203.0.113.7"
        if server is None:
            why = "you may not read" if hidden else "there is no"
            raise Failed(f"{option} me: {why} PostgresServer {tenant.spec.server_ref.name}; {give}")
        endpoint = server.endpoint
        if endpoint.echo_port is None:
            raise Failed(
                f"{option} me: PostgresServer {server.metadata.name} does not tell callers their address; {give}, "
                "or ask the platform team for spec.publicEndpoint.echoPort"
            )
        try:
            return await echo.ask(endpoint.host, endpoint.echo_port)
        except Expected as error:
            raise Failed(f"{option} me: {error.message}; {give}") from None

    async def follow(self, known: R, done: Callable[[R], bool], timeout: float) -> tuple[R, Object, bool]:
        """Read an object until ``done`` or for ``timeout`` seconds; returns its last state, and whether it was done."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            found, raw = await self.again(known)
            if done(found) or loop.time() >= end:
                return found, raw, done(found)
            await asyncio.sleep(PAUSE_SECONDS)

    async def again(self, known: R) -> tuple[R, Object]:
        """The object as it is now. Raises Failed when it, and not just another of its name, is gone."""
        kind = resource_type(type(known))
        try:
            raw = await self.kube.get(kind, known.metadata.namespace, known.metadata.name)
        except NotFound:
            raw = {}
        if raw.get("metadata", {}).get("uid") != known.metadata.uid:
            raise Failed(f"{kind.kind} {known.metadata.name} was deleted meanwhile; that ends it")
        return _parse(type(known), raw), raw

    async def _missing(self, model: type[R], name: str) -> str:
        kind = resource_type(model)
        text = f"{kind.kind} {name} not found in namespace {self.namespace}"
        here = [r.metadata.name for r in await self._visible(model, self.namespace)]
        if close := difflib.get_close_matches(name, here, 1):
            return f"{text}; did you mean {close[0]}?"
        elsewhere = [r.metadata.namespace for r in await self._visible(model, "") if r.metadata.name == name]
        if elsewhere:
            return f"{text}; there is one in namespace {elsewhere[0]}: add -n {elsewhere[0]}"
        return f"{text}; name its namespace with -n, and see: kubectl get {kind.plural} -A"

    async def _visible(self, model: type[R], namespace: str) -> list[R]:
        try:
            return await self.objects(model, namespace)
        except Expected:
            return []


def _parse(model: type[R], raw: Object) -> R:
    try:
        return model.parse(raw)
    except ValidationError as error:
        meta = raw.get("metadata", {})
        where = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise Failed(
            f"{resource_type(model).kind} {meta.get('namespace', '')}/{meta.get('name', '')} cannot be read "
            f"(written by a newer version?): {where}"
        ) from None


def act(where: Where, work: Callable[[User], Coroutine[Any, Any, int]]) -> NoReturn:
    """Run a command to its exit code: 0, 1 after a failure, 2 for wrong usage; failures as one line on stderr."""
    # What its libraries say of a kubeconfig is said again by the error.
    logging.getLogger("kubernetes").setLevel(logging.ERROR)
    try:
        code = asyncio.run(_act(where, work))
    except Misused as error:
        warn(f"error: {error}")
        code = 2
    except (Failed, Refused, Conflict, Gone, NotFound) as error:
        warn(f"error: {error}")
        code = 1
    except Expected as error:
        warn(f"error: {error.message}")
        code = 1
    raise typer.Exit(code)


async def _act(where: Where, work: Callable[[User], Coroutine[Any, Any, int]]) -> int:
    kube = Kube("vaultbrix-cli", context=where.context)
    try:
        return await work(User(kube, where))
    except Transient as error:
        raise Failed(
            f"{error.message}; is {await kube.address()} reachable from here? check network, VPN and the "
            "context of your kubeconfig"
        ) from None
    finally:
        await asyncio.shield(kube.close())
