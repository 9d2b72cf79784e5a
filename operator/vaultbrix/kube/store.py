"""Keeps the objects of one kind as last seen, so that decisions need not ask the API server."""

import itertools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from vaultbrix.api.meta import Resource

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Change(Generic[R]):
    """A change of one object: ``before`` is None for a new one, ``after`` for one that is gone.

    ``decisive`` says that decisions on other objects may depend on it; see ``Store``. ``own`` says that it answers a
    write of this process, so that nothing has to be decided again about the object itself.
    """

    before: R | None
    after: R | None
    decisive: bool
    own: bool = False

    @property
    def resource(self) -> R:
        """The object as it is, or as it was last seen."""
        resource = self.after if self.after is not None else self.before
        assert resource is not None
        return resource

    @property
    def gone(self) -> bool:
        """Whether the object no longer exists."""
        return self.after is None


class Store(Generic[R]):
    """Objects of one kind by (namespace, name), by uid, and by group.

    ``group`` returns the group of an object. ``basis`` returns the part of an object that decisions on other objects
    rest on: a change of it is decisive, and gives the object's group a new version. Without it, every change is.
    """

    def __init__(
        self,
        model: type[R],
        group: Callable[[R], Hashable] | None = None,
        basis: Callable[[R], Hashable] | None = None,
    ) -> None:
        self.model = model
        self._objects: dict[tuple[str, str], R] = {}
        self._uids: dict[str, tuple[str, str]] = {}
        self._group = group
        self._basis = basis
        self._groups: dict[Hashable, dict[tuple[str, str], R]] = {}
        self._changes = itertools.count(1)
        self._versions: dict[Hashable, int] = {}

    def get(self, namespace: str, name: str) -> R | None:
        """Return the object, or None."""
        return self._objects.get((namespace, name))

    def holds(self, namespace: str, name: str, *, uid: str, version: int) -> bool:
        """Whether this version of the object, or a newer one, is here already."""
        old = self._objects.get((namespace, name))
        return old is not None and old.metadata.uid == uid and version <= _version(old)

    def of(self, group: Hashable) -> list[R]:
        """Return the objects of one group."""
        return list(self._groups.get(group, {}).values())

    def by_uid(self, uid: str) -> R | None:
        """Return the object with this uid, or None."""
        key = self._uids.get(uid)
        return self._objects.get(key) if key is not None else None

    def version(self, group: Hashable) -> int:
        """Return the version of a group: another number after every decisive change in it, 0 while it is empty."""
        return self._versions.get(group, 0)

    def put(self, resource: R, *, own: bool = False) -> Change[R] | None:
        """Keep the object; returns the change, None if it is no newer than the version that is here."""
        if self.holds(*resource.key, uid=resource.metadata.uid, version=_version(resource)):
            return None
        old = self._objects.get(resource.key)
        decisive = old is None or self._basis is None or self._basis(old) != self._basis(resource)
        if old is not None:
            self._uids.pop(old.metadata.uid, None)
        self._objects[resource.key] = resource
        self._uids[resource.metadata.uid] = resource.key
        if self._group is not None:
            group = self._group(resource)
            if old is not None and self._group(old) != group:
                self._leave(old)
                decisive = True
            self._groups.setdefault(group, {})[resource.key] = resource
            if decisive:
                self._versions[group] = next(self._changes)
        return Change(old, resource, decisive, own)

    def remove(self, namespace: str, name: str) -> Change[R] | None:
        """Forget the object; returns the change, None if there was no such object."""
        old = self._objects.pop((namespace, name), None)
        if old is None:
            return None
        self._uids.pop(old.metadata.uid, None)
        self._leave(old)
        return Change(old, None, decisive=True)

    def keys(self) -> set[tuple[str, str]]:
        """Return the keys of all objects, each (namespace, name)."""
        return set(self._objects)

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def _leave(self, resource: R) -> None:
        if self._group is None:
            return
        group = self._group(resource)
        members = self._groups[group]
        del members[resource.key]
        self._versions[group] = next(self._changes)
        if not members:
            del self._groups[group], self._versions[group]


def _version(resource: Resource) -> int:
    # Versions of one object grow in etcd, and answers to our writes overtake the watch: the newer one counts.
    return int(resource.metadata.resource_version or 0)
