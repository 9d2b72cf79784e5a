"""A namespace of a test's own on a real API server, without operator and agents, and the people who work there.

What operator and agents would write, and what other people do meanwhile, the test writes itself.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.harness.apiserver import ApiServer
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for

from vaultbrix.api.meta import GROUP, Resource
from vaultbrix.kube.client import Kube
from vaultbrix.kube.person import PersonClient
from vaultbrix.kube.resources import OURS, ResourceType, resource_type

# The API server lets this group do everything.
MASTERS = "system:masters"
RBAC = "rbac.authorization.k8s.io"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

_numbers = itertools.count(1)

T = TypeVar("T")
R = TypeVar("R", bound=Resource)


class Overtaken(Kube):
    """The client of somebody who is late: before each of their changes, the next of ``others`` writes."""

    def __init__(self, field_manager: str, others: Iterable[Callable[[], object]]) -> None:
        super().__init__(field_manager)
        self._others = iter(others)

    async def merge(
        self, kind: ResourceType, namespace: str, name: str, body: Object, *, dry_run: bool = False
    ) -> Object:
        if (write := next(self._others, None)) is not None:
            write()
        return await super().merge(kind, namespace, name, body, dry_run=dry_run)


class Team:
    """Objects that builders make for the namespace ``team`` lie in ``namespace``; others where they say."""

    def __init__(self, api: ApiServer) -> None:
        self.api, number = api, next(_numbers)
        self.namespace, self.elsewhere = f"team-{number}", f"else-{number}"
        for name in (self.namespace, self.elsewhere):
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self.api.request("POST", "/api/v1/namespaces", body)

    def clear(self) -> None:
        """Delete all that lies in its namespaces, and all that lies in none."""
        for kind in OURS.values():
            for namespace in (self.namespace, self.elsewhere) if kind.namespaced else ("",):
                self.api.request("DELETE", kind.path(namespace))

    def admin(self, name: str) -> Path:
        """The kubeconfig of somebody of that name who may do everything."""
        return self.api.user(name, MASTERS)

    def person(self, *rules: Object, everywhere: Iterable[Object] = ()) -> Path:
        """The kubeconfig of somebody who may do this in the namespace, and that in all of the cluster."""
        name = f"eve@{self.namespace}"
        self._let(name, "Role", self.namespace, rules)
        self._let(name, "ClusterRole", "", everywhere)
        return self.api.user(name)

    def _let(self, user: str, role: str, namespace: str, rules: Iterable[Object]) -> None:
        rules = list(rules)
        reference = {"apiGroup": RBAC, "kind": role, "name": user}
        subjects = [{"apiGroup": RBAC, "kind": "User", "name": user}]
        self._create_right(role, namespace, user, {"rules": rules})
        self._create_right(f"{role}Binding", namespace, user, {"roleRef": reference, "subjects": subjects})
        # The API server hears of it from itself, a moment later.
        wait_for(f"{user} may do it", lambda: self._allowed(user, namespace, rules))

    def _create_right(self, kind: str, namespace: str, name: str, body: Object) -> None:
        type_ = ResourceType(f"{RBAC}/v1", f"{kind.lower()}s", kind)
        head = {"apiVersion": type_.api_version, "kind": kind, "metadata": {"name": name}}
        self.api.request("POST", type_.path(namespace), {**head, **body})

    def _allowed(self, user: str, namespace: str, rules: Iterable[Object]) -> bool:
        asked = [(verb, plural) for rule in rules for verb in rule["verbs"] for plural in rule["resources"]]
        for verb, plural in asked:
            attributes = {"group": GROUP, "resource": plural, "verb": verb, "namespace": namespace}
            body = {
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {"user": user, "resourceAttributes": attributes},
            }  # fmt: skip
            if not self.api.request("POST", REVIEWS, body)["status"]["allowed"]:
                return False
        return True

    def ask(
        self,
        action: Callable[[PersonClient], Awaitable[T]],
        *,
        person: Path | None = None,
        others: Iterable[Callable[[], object]] = (),
        **options: Any,
    ) -> T:
        """What comes of an action of a person, who is jane@example.com with all rights if no kubeconfig says another.

        ``others`` are as for Overtaken, ``options`` as for PersonClient.
        """

        async def acted() -> T:
            kube = Overtaken("test", others)
            try:
                with pytest.MonkeyPatch.context() as environment:
                    environment.setenv("KUBECONFIG", str(person or self.admin("jane@example.com")))
                    await kube.address()
                return await action(PersonClient(kube, namespace=self.namespace, **options))
            finally:
                await kube.close()

        return asyncio.run(acted())

    def put(self, *resources: Resource) -> None:
        """Create objects, and write their status."""
        for resource in resources:
            kind, body = resource_type(type(resource)), resource.dump()
            metadata = {"name": resource.metadata.name, "labels": resource.metadata.labels}
            named = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
            self.api.request("POST", kind.path(self._namespace(resource)), {**named, "spec": body["spec"]})
            self.write_status(resource, body.get("status", {}))

    def write_status(self, known: Resource, status: Object) -> None:
        """Change these fields of an object's status, as operator and agents do."""
        self.api.request("PATCH", self._path(known, "status"), {"status": status})

    def change(self, known: Resource, body: Object) -> None:
        """Change an object by a JSON merge patch."""
        self.api.request("PATCH", self._path(known), body)

    def delete(self, known: Resource) -> None:
        """Delete an object."""
        self.api.request("DELETE", self._path(known))

    def read(self, known: R) -> R:
        """An object as it is now."""
        return type(known).parse(self.api.request("GET", self._path(known)))

    def versions(self, model: type[Resource]) -> dict[str, str]:
        """The resourceVersion of each object of a kind in the namespace, by name: another one is another write."""
        listed = self.api.request("GET", resource_type(model).path(self.namespace))["items"]
        return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in listed}

    def _namespace(self, resource: Resource) -> str:
        return self.namespace if resource.metadata.namespace == "team" else resource.metadata.namespace

    def _path(self, known: Resource, subresource: str = "") -> str:
        return resource_type(type(known)).path(self._namespace(known), known.metadata.name, subresource)
