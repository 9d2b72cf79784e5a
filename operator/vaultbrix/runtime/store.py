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
        """Keep the object; False when it is no newer than the version held."""
        old = self._objects.get(resource.key)
        if old is not None and old.metadata.uid == resource.metadata.uid and _version(resource) <= _version(old):
            return False
        self._objects[resource.key] = resource
        return True

    def refresh(self, resource: R) -> None:
        """Keep what the API server answered to a write, unless the object is gone or newer by now."""
        old = self._objects.get(resource.key)
        if old is not None and old.metadata.uid == resource.metadata.uid:
            self.put(resource)

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


def _version(resource: Resource) -> int:
    # Versions of one object grow in etcd, and answers to our writes overtake the watch: the newer one counts.
    return int(resource.metadata.resource_version or 0)
