"""The objects last seen, by kind and key: a cache that decisions read instead of asking the API server."""

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from vaultbrix.api.meta import Resource

R = TypeVar("R", bound=Resource)


class Store(Generic[R]):
    """Objects of one kind by (namespace, name), and by what ``group`` says of each."""

    def __init__(self, model: type[R], group: Callable[[R], Hashable] | None = None) -> None:
        self.model = model
        self._objects: dict[tuple[str, str], R] = {}
        self._uids: dict[str, tuple[str, str]] = {}
        self._group = group
        self._groups: dict[Hashable, dict[tuple[str, str], R]] = {}

    def get(self, namespace: str, name: str) -> R | None:
        """The object, or None."""
        return self._objects.get((namespace, name))

    def put(self, resource: R) -> bool:
        """Keep the object; False when it is no newer than the version held."""
        old = self._objects.get(resource.key)
        if old is not None and old.metadata.uid == resource.metadata.uid and _version(resource) <= _version(old):
            return False
        self._leave(old)
        self._objects[resource.key] = resource
        self._uids[resource.metadata.uid] = resource.key
        if self._group is not None:
            self._groups.setdefault(self._group(resource), {})[resource.key] = resource
        return True

    def refresh(self, resource: R) -> None:
        """Keep what the API server answered to a write, unless the object is gone or newer by now."""
        old = self._objects.get(resource.key)
        if old is not None and old.metadata.uid == resource.metadata.uid:
            self.put(resource)

    def remove(self, namespace: str, name: str) -> R | None:
        """Forget the object and return what was held."""
        gone = self._objects.pop((namespace, name), None)
        self._leave(gone)
        return gone

    def by_uid(self, uid: str) -> R | None:
        """The object with this uid, or None."""
        key = self._uids.get(uid)
        return self._objects.get(key) if key is not None else None

    def of(self, group: Hashable) -> list[R]:
        """The objects of one group."""
        return list(self._groups.get(group, {}).values())

    def groups(self) -> set[Hashable]:
        """The groups that have an object."""
        return set(self._groups)

    def keys(self) -> set[tuple[str, str]]:
        """The keys held now."""
        return set(self._objects)

    def _leave(self, resource: R | None) -> None:
        if resource is None:
            return
        self._uids.pop(resource.metadata.uid, None)
        if self._group is None:
            return
        name = self._group(resource)
        del self._groups[name][resource.key]
        if not self._groups[name]:
            del self._groups[name]

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)


def _version(resource: Resource) -> int:
    # Versions of one object grow in etcd, and answers to our writes overtake the watch: the newer one counts.
    return int(resource.metadata.resource_version or 0)
