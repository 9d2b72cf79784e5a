"""The objects last seen, by kind and key: a cache that decisions read instead of asking the API server."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from vaultbrix.api.meta import Resource

R = TypeVar("R", bound=Resource)


class Store(Generic[R]):
    """Objects of one kind by (namespace, name)."""

    def __init__(self, model: type[R]) -> None:
        self.model = model
        self._objects: dict[tuple[str, str], R] = {}

    def get(self, namespace: str, name: str) -> R | None:
        """The object, or None."""
        return self._objects.get((namespace, name))

    def put(self, resource: R) -> bool:
        """Keep the object; False when it is the version already held."""
        old = self._objects.get(resource.key)
        self._objects[resource.key] = resource
        return old is None or old.metadata.resource_version != resource.metadata.resource_version

    def remove(self, namespace: str, name: str) -> R | None:
        """Forget the object and return what was held."""
        return self._objects.pop((namespace, name), None)

    def keys(self) -> set[tuple[str, str]]:
        """The keys held now."""
        return set(self._objects)

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)
