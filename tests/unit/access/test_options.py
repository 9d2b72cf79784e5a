"""What is wrong with a request for direct access by itself is told without any cluster."""

import asyncio
from typing import Any

import pytest
from tests.harness.builders import Raw

from vaultbrix.access.actions import AllowOptions, allow
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.usage import Misused


def request(**changes: Any) -> AllowOptions:
    given = {"tenant": "acme", "cidrs": ("203.0.113.7",), "reason": "CHG-1", "lasting": "2h", "name": "jane", **changes}
    return AllowOptions(**given)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lasting": None}, "exactly one of --for"),
        ({"timeout": "soon"}, "--timeout soon"),
        ({"cidrs": ("banana",)}, "--cidr banana"),
        ({"cidrs": ("me", "0.0.0.0/0")}, "every address"),
        ({"reason": " "}, "--reason"),
        ({"requested_by": "two words"}, "--requested-by"),
        ({"name": "No Name"}, "--name No Name"),
    ],
)
def test_what_is_wrong_by_itself_is_told_before_anybody_is_asked(changes: Raw, says: str) -> None:
    with pytest.raises(Misused, match=says):
        asyncio.run(allow(PersonClient(None, namespace="team"), request(**changes)))  # type: ignore[arg-type]
