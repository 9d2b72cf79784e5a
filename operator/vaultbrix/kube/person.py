"""A person's way to the cluster: objects of our kinds by name, with that person's rights.

The command line makes one ``PersonClient`` for each command, with the connection of the kubeconfig; another program
that acts for people makes one with a connection of its own. What goes wrong is raised as a sentence for the person:
Refused (and its kinds below) for what the cluster does not hold or allow, Expected for a cluster that cannot be asked.
"""

import asyncio
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import structlog
from pydantic import ValidationError

from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import GROUP, Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube.client import Conflict, Kube, NotFound, Object
from vaultbrix.kube.configuration import default_namespace
from vaultbrix.kube.resources import resource_type
from vaultbrix.runtime.errors import Blocked, Expected
from vaultbrix.runtime.usage import Refused

# How often an object that is waited for is read.
PAUSE_SECONDS = 0.3

R = TypeVar("R", bound=Resource)

log = structlog.get_logger(__name__)


class Missing(Refused):
    """The object that was asked for does not exist, or was deleted while it was waited for."""


class NameTaken(Refused):
    """The object was not created, because another one of its kind has the name that was asked for."""


class Unreadable(Refused):
    """The object exists, but this version of the program does not understand it."""


@dataclass(frozen=True)
class Fetched(Generic[R]):
    """An object as it was read: as the model that decisions are made on, and as the API server answered."""

    resource: R
    raw: Object

    @property
    def manifest(self) -> Object:
        """The object as kubectl shows it: with its kind, and without the bookkeeping of field managers."""
        kind = resource_type(type(self.resource))
        metadata = {key: value for key, value in self.raw.get("metadata", {}).items() if key != "managedFields"}
        return {"apiVersion": kind.api_version, "kind": kind.kind, **self.raw, "metadata": metadata}


@dataclass(frozen=True)
class Collection(Generic[R]):
    """Objects of one kind as they were listed; a watch goes on from ``version``."""

    items: tuple[Fetched[R], ...]
    version: str


def manifest_list(items: Iterable[Fetched[R]]) -> Object:
    """Objects as one List, as ``kubectl get -o json`` prints them."""
    return {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [item.manifest for item in items]}


def _log_unreadable(problem: Unreadable) -> None:
    log.warning("left out of a list", problem=str(problem))


class PersonClient:
    """The API server with the rights of one person, and the namespace in which that person's names are looked up."""

    def __init__(
        self,
        kube: Kube,
        *,
        namespace: str = "",
        context: str = "",
        report_unreadable: Callable[[Unreadable], None] = _log_unreadable,
    ) -> None:
        """``kube`` is the connection; whoever made it closes it.

        Without ``namespace``, that of the kubeconfig's ``context`` holds. ``report_unreadable`` is called for each
        object that is left out of a list because it cannot be read.
        """
        self.kube = kube
        self._given_namespace = namespace
        self._context = context
        self._report_unreadable = report_unreadable

    @cached_property
    def namespace(self) -> str:
        """The namespace that was given, else that of the kubeconfig's context. Raises Blocked without a kubeconfig."""
        return self._given_namespace or default_namespace(self._context)

    async def find(self, model: type[R], name: str) -> R:
        """The object of that name in the person's namespace. Raises Missing, with what may have been meant."""
        return (await self.fetch(model, name)).resource

    async def fetch(self, model: type[R], name: str) -> Fetched[R]:
        """The object of that name, as a model and as the API server answered. Raises Missing, as ``find`` does."""
        try:
            raw = await self.kube.get(resource_type(model), self.namespace, name)
        except NotFound:
            raise Missing(await self._describe_missing(model, name)) from None
        return _parse(model, raw)

    async def find_server(self, tenant: Tenant) -> tuple[PostgresServer | None, bool]:
        """The tenant's server, and whether it is hidden: (None, True) for a person who may not read it."""
        try:
            raw = await self.kube.get(resource_type(PostgresServer), "", tenant.spec.server_ref.name)
        except NotFound:
            return None, False
        except Blocked as error:
            if error.reason is not Reason.FORBIDDEN:
                raise
            return None, True
        return _parse(PostgresServer, raw).resource, False

    async def collect(self, model: type[R], namespace: str) -> Collection[R]:
        """All objects of a namespace, or of all namespaces where it is empty, but for those that cannot be read."""
        kind = resource_type(model)
        try:
            answer = await self.kube.list(kind, namespace)
        except NotFound:
            raise Refused(
                f"this cluster has no Vaultbrix: its API server does not know {kind.plural}.{GROUP}; "
                "check the context of your kubeconfig"
            ) from None
        version = str(answer.get("metadata", {}).get("resourceVersion", ""))
        return Collection(tuple(self.read(model, answer["items"])), version)

    async def find_all(self, model: type[R], namespace: str) -> list[R]:
        """All objects of a namespace, or of all namespaces where it is empty, but for those that cannot be read."""
        return [item.resource for item in (await self.collect(model, namespace)).items]

    async def find_permitted(self, model: type[R], namespace: str) -> list[R]:
        """All objects of a namespace, as by ``find_all``; none where the person may not list them."""
        try:
            return await self.find_all(model, namespace)
        except Blocked as error:
            if error.reason is not Reason.FORBIDDEN:
                raise
            return []

    def read(self, model: type[R], raws: Iterable[Object]) -> list[Fetched[R]]:
        """What the API server answered, as models; what cannot be read is reported and left out."""
        readable = []
        for raw in raws:
            try:
                readable.append(_parse(model, raw))
            except Unreadable as problem:
                self._report_unreadable(problem)
        return readable

    async def create(self, model: type[R], body: Object, *, why_final: str, dry_run: bool) -> Fetched[R]:
        """Create the object in its namespace; with ``dry_run`` the API server only checks and completes it.

        Raises NameTaken, which says in the words of ``why_final`` why the object of that name cannot be used instead.
        """
        kind, metadata = resource_type(model), body["metadata"]
        try:
            raw = await self.kube.create(kind, metadata["namespace"], body, dry_run=dry_run)
        except Conflict:
            article = "an" if kind.kind[0] in "AEIOU" else "a"
            raise NameTaken(
                f"--name {metadata.get('name', '')}: namespace {metadata['namespace']} has {article} {kind.kind} of "
                f"that name, {why_final}; give another name, or none"
            ) from None
        return _parse(model, raw)

    async def create_request(
        self, model: type[R], body: Object, *, given_person: str, why_final: str, dry_run: bool
    ) -> Fetched[R]:
        """Create an object that says who asks for it; ``given_person`` is what --requested-by said, if anything.

        Raises Refused where the person may not ask for another one, and what ``create`` raises.
        """
        try:
            return await self.create(model, body, why_final=why_final, dry_run=dry_run)
        except Blocked as error:
            if not given_person or not error.message.startswith("spec.requestedBy "):
                raise
            raise Refused(
                f"--requested-by {given_person}: {error.message}; without the option you ask in your own name"
            ) from None

    async def merge(self, known: R, body: Object, *, dry_run: bool = False) -> R:
        """Change the object by a JSON merge patch; returns it as it is then, or with ``dry_run`` would be.

        Raises NotFound, and Conflict when the patch names a resourceVersion that is not the latest.
        """
        kind = resource_type(type(known))
        raw = await self.kube.merge(kind, known.metadata.namespace, known.metadata.name, body, dry_run=dry_run)
        return _parse(type(known), raw).resource

    async def reread(self, known: R) -> Fetched[R]:
        """The object as it is now. Raises Missing when it is gone, even if another of its name has taken its place."""
        kind = resource_type(type(known))
        try:
            raw = await self.kube.get(kind, known.metadata.namespace, known.metadata.name)
        except NotFound:
            raw = {}
        if raw.get("metadata", {}).get("uid") != known.metadata.uid:
            raise Missing(f"{kind.kind} {known.metadata.name} was deleted meanwhile; that ends it")
        return _parse(type(known), raw)

    async def wait_until(
        self, known: R, done: Callable[[R], bool], timeout: float, report: Callable[[R], None] | None = None
    ) -> tuple[Fetched[R], bool]:
        """Read the object until it is ``done``, or for ``timeout`` seconds.

        Returns its last state and whether it was done; ``report`` is called with every state. Raises Missing.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            state = await self.reread(known)
            if report is not None:
                report(state.resource)
            if done(state.resource) or loop.time() >= end:
                return state, done(state.resource)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _describe_missing(self, model: type[R], name: str) -> str:
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
        """All objects of a namespace, or of all, for a hint; none where the cluster does not list them."""
        try:
            return await self.find_all(model, namespace)
        except Expected:
            return []


def _parse(model: type[R], raw: Object) -> Fetched[R]:
    """Raises Unreadable for an object that does not fit the model."""
    try:
        return Fetched(model.parse(raw), raw)
    except ValidationError as error:
        meta = raw.get("metadata", {})
        where = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise Unreadable(
            f"{resource_type(model).kind} {meta.get('namespace', '')}/{meta.get('name', '')} cannot be read "
            f"(written by a newer version?): {where}"
        ) from None
