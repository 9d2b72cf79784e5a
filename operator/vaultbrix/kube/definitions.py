"""Looks at the CustomResourceDefinitions of our kinds, for the operator to tell that they are of an earlier release."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import structlog

from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.crd import custom_resource_definition
from vaultbrix.api.definitions import definitions_current, missing_fields
from vaultbrix.api.kinds import KINDS
from vaultbrix.api.meta import Resource
from vaultbrix.kube.client import Kube, NotFound
from vaultbrix.kube.resources import CUSTOM_RESOURCE_DEFINITIONS
from vaultbrix.runtime.errors import Expected

log = structlog.get_logger(__name__)

# What tells one version of a definition from another: its uid and generation.
_Version = tuple[str, int]

_wanted = cache(custom_resource_definition)


class Definitions:
    """What the installed definitions lack, as of the last look."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._seen: dict[type[Resource], tuple[_Version, Sequence[str]]] = {}
        self._listeners: list[Callable[[State], None]] = []
        self.state = State(None, Reason.WAITING, "not looked at yet")

    def on_change(self, listener: Callable[[State], None]) -> None:
        """Have a listener called with the new state when it is another."""
        self._listeners.append(listener)

    async def look(self) -> None:
        """Read the definitions that have changed since the last look, and tell what is new."""
        try:
            missing = {_wanted(model)["spec"]["names"]["kind"]: await self._lacking(model) for model in KINDS}
        except Expected as error:
            text = f"whether the installed CustomResourceDefinitions are of this release is not known: {error.message}"
            state = State(None, error.reason, text)
        else:
            state = definitions_current(missing)
        before, self.state = self.state, state
        if state == before:
            return
        if state.status is not True:
            log.warning("CustomResourceDefinitions", reason=str(state.reason), message=state.message)
        for listener in self._listeners:
            listener(state)

    async def _lacking(self, model: type[Resource]) -> Sequence[str] | None:
        """The fields that the kind's definition lacks; None where there is none. Raises Expected."""
        wanted = _wanted(model)
        name = wanted["metadata"]["name"]
        try:
            version = _version_of(await self._kube.get(CUSTOM_RESOURCE_DEFINITIONS, "", name, meta=True))
            known = self._seen.get(model)
            if known is not None and known[0] == version:
                return known[1]
            installed = await self._kube.get(CUSTOM_RESOURCE_DEFINITIONS, "", name)
        except NotFound:
            self._seen.pop(model, None)
            return None
        lacking = missing_fields(wanted, installed)
        self._seen[model] = (_version_of(installed), lacking)
        return lacking


def _version_of(definition: dict[str, Any]) -> _Version:
    metadata = definition["metadata"]
    return metadata["uid"], metadata["generation"]
