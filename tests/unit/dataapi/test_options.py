"""What is wrong with a request for a key by itself is told without any cluster, and how long keys still last."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.harness.builders import HOUR, Raw, api_key

from vaultbrix.api.apikey import APIKey, KeyKind
from vaultbrix.api.meta import rfc3339
from vaultbrix.dataapi.actions import CreateOptions, create
from vaultbrix.dataapi.progress import time_left
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.usage import Misused


def request(**changes: Any) -> CreateOptions:
    return CreateOptions(**{"tenant": "acme", "kind": KeyKind.SECRET, "reason": "CHG-3", "name": "shop", **changes})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (request(lasting="1h", until="2099-01-01T00:00:00Z"), "at most one of --for"),
        (request(cidrs=("0.0.0.0/0",)), "every address"),
        (request(cidrs=tuple(f"203.0.113.{n}" for n in range(33))), "make another key for more"),
        (request(overlap="soon"), "--overlap soon"),
        (request(reason=" "), "--reason"),
        (request(name="No Name"), "--name No Name"),
        (request(secret_name="a/b"), "--secret-name a/b"),
        (request(timeout="0s"), "--timeout 0s"),
    ],
)
def test_a_wrong_option_is_named_before_anybody_is_asked(options: CreateOptions, says: str) -> None:
    with pytest.raises(Misused, match=says):
        asyncio.run(create(PersonClient(None, namespace="team"), options))  # type: ignore[arg-type]


def current(*, status: Raw | None = None, **spec: Any) -> APIKey:
    """A key that was made just now."""
    metadata = {"creationTimestamp": rfc3339(datetime.now(UTC))}
    return api_key("shop", metadata=metadata, status={"phase": "Active", **(status or {})}, **spec)


def test_the_time_that_is_left_is_told_for_each_kind_of_life() -> None:
    now = datetime.now(UTC)
    closed = {"phase": "Expired", "closedAt": rfc3339(now - HOUR), "closedReason": "Expired"}
    assert time_left(current(), now) == "until revoked"
    assert time_left(current(expiresAt=rfc3339(now + 2 * HOUR)), now).startswith("1h59m")
    assert time_left(current(status=closed), now).startswith("ended 1h")
    assert time_left(current(revoked=True), now) == "ended 0s ago"
    assert time_left(current(status={"phase": "Rejected"}), now) == "not made"
