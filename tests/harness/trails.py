"""What the audit store was told of approvals."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.harness.kube_http import Object
from tests.harness.shell import wait_for
from tests.harness.world import SERVER_NAME, SYSTEM, World

MANAGER = "audit-manager"


@contextmanager
def recorded(world: World) -> Iterator[World]:
    """The world with an audit store that takes what became of approvals."""
    world.server_secret(MANAGER, world.store.login("manager", "audit_manage"))
    _refer(world, {"name": MANAGER, "namespace": SYSTEM})
    try:
        yield world
    finally:
        if not world.store.postgres.process.running:
            world.store.postgres.start()
        world.heal()
        world.clear()
        wait_for("no approval waits for the store", lambda: not _held(world), patience=90, tell=world.operator.text)
        _refer(world, None)


def _refer(world: World, reference: Object | None) -> None:
    world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"auditManagerSecretRef": reference}})


def _held(world: World) -> list[str]:
    items = world.api.request("GET", "/apis/vaultbrix.com/v1alpha1/ddlapprovals")["items"]
    return [i["metadata"]["name"] for i in items if i["metadata"].get("deletionTimestamp")]


def told(world: World, uid: str) -> list[dict[str, Any]]:
    """The events of one object, in the order in which they were stored."""
    rows = world.store.query(
        "SELECT detail FROM audit.event WHERE kind = 'approval' AND detail->>'uid' = %s ORDER BY id", [uid]
    )
    return [detail for (detail,) in rows]


def names(world: World, uid: str) -> list[str]:
    """What happened, in a word each."""
    return [event["event"] for event in told(world, uid)]


def await_events(world: World, uid: str, *wanted: str, patience: float = 60) -> list[dict[str, Any]]:
    """Wait until exactly these are stored, in this order; returns them."""
    wait_for(
        f"the store has {', '.join(wanted)}",
        lambda: names(world, uid) == list(wanted),
        patience=patience,
        tell=lambda: f"{names(world, uid)}\n{world.operator.text()[-3000:]}",
    )
    return told(world, uid)
