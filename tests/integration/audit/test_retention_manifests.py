"""auditRetention of PostgresServers and Tenants, in the world: policies in the store, and what is due dropped daily."""

from collections.abc import Iterator

import pytest
from tests.harness.shell import wait_for
from tests.harness.world import SERVER_NAME, SYSTEM, World, server

SECRET = "audit-manager"
REFERENCE = {"name": SECRET, "namespace": SYSTEM}


@pytest.fixture
def kept(world: World) -> Iterator[World]:
    """With a store that the operator looks after."""
    world.server_secret(SECRET, world.store.login("manager", "audit_manage"))
    world.api.apply(server(auditManagerSecretRef=REFERENCE))
    yield world
    world.api.apply(server())
    world.store.query("DELETE FROM audit.retention WHERE managed")
    world.store.query("INSERT INTO audit.retention VALUES ('', '', 400) ON CONFLICT DO NOTHING")


def policies(world: World) -> dict[tuple[str, str], tuple[int, bool]]:
    found = world.store.query("SELECT tenant, class, days, managed FROM audit.retention")
    return {(tenant, class_): (days, managed) for tenant, class_, days, managed in found}


def await_policies(world: World, wanted: dict[tuple[str, str], tuple[int, bool]]) -> None:
    wait_for(
        f"the store keeps {wanted}", lambda: policies(world) == wanted, patience=60,
        tell=lambda: f"{policies(world)}\n{world.operator.text()[-3000:]}",
    )  # fmt: skip


def told(world: World, status: str, reason: str) -> str:
    found = world.api.await_condition(
        "pgs", SERVER_NAME, "", type_="AuditRetentionApplied", status=status, reason=reason, patience=90
    )
    return str(found["message"])


def again(world: World) -> None:
    """What happens once a day happens when the operator starts, too."""
    world.operator.stop()
    world.operator.start()


def test_policies_follow_from_manifests_and_what_is_set_by_hand_stays(kept: World) -> None:
    kept.store.query("INSERT INTO audit.retention VALUES ('by/hand', '', 7)")
    try:
        team = kept.team()
        acme = kept.tenant(team, auditRetention={"days": 500, "classes": {"READ": 600, "DDL": 30}})
        told_tenant = kept.api.condition("tenant", acme, "Ready", team)
        assert told_tenant["status"] == "True"
        assert "DDL 30 (the PostgresServer says 400)" in told_tenant["message"]
        hand, default = {("by/hand", ""): (7, False)}, {("", ""): (400, False)}
        own = {"": 500, "READ": 600, "DDL": 400}
        mine = {(f"{team}/{acme}", class_): (days, True) for class_, days in own.items()}
        await_policies(kept, {**hand, **default, **mine})
        kept.api.apply(server(auditManagerSecretRef=REFERENCE, auditRetention={"days": 90, "classes": {"DDL": 3650}}))
        mine[(f"{team}/{acme}", "DDL")] = (3650, True)
        await_policies(kept, {**hand, **mine, ("", ""): (90, True), ("", "DDL"): (3650, True)})
        kept.tenant(team, name=acme)
        await_policies(kept, {**hand, ("", ""): (90, True), ("", "DDL"): (3650, True)})
        noted = kept.store.query(
            "SELECT actor, detail->>'old', detail->>'new' FROM audit.event WHERE kind = 'retention'"
            " AND detail->>'tenant' = %s AND detail->>'class' = 'READ' ORDER BY id", [f"{team}/{acme}"],
        )  # fmt: skip
        assert noted == [("manager", None, "600"), ("manager", "600", None)]
    finally:
        kept.store.query("DELETE FROM audit.retention WHERE tenant = 'by/hand'")


def test_what_is_due_is_dropped_by_the_operator_and_the_status_says_so(kept: World) -> None:
    kept.store.query("SELECT audit.ensure_partition('2020-01-01', 30)")
    with kept.store.open() as reader:
        reader.execute("BEGIN")
        reader.execute("LOCK TABLE audit.record_20200101_30 IN ACCESS SHARE MODE")
        again(kept)
        assert "record_20200101_30" in told(kept, "False", "HeldByQuery")
        reader.execute("ROLLBACK")
    again(kept)
    assert "1 partition with 0 rows was dropped" in told(kept, "True", "Applied")
    assert kept.store.query("SELECT to_regclass('audit.record_20200101')") == [(None,)]


def test_a_store_that_cannot_be_looked_after_is_told_with_the_field_to_set(kept: World) -> None:
    kept.api.apply(server(auditManagerSecretRef={"name": "missing", "namespace": SYSTEM}))
    assert "spec.auditManagerSecretRef: Secret" in told(kept, "False", "SecretNotFound")
    kept.api.apply(server(auditManagerSecretRef={"name": "audit-reader", "namespace": SYSTEM}))
    assert "must be a member of audit_manage" in told(kept, "False", "InsufficientPrivilege")
    kept.api.apply(server(auditRetention={"days": 30}))
    assert "set spec.auditManagerSecretRef" in told(kept, "False", "NoAuditStore")
    kept.api.apply(server())
    wait_for(
        "nothing is said any more",
        lambda: not kept.api.condition("pgs", SERVER_NAME, "AuditRetentionApplied"),
        patience=60,
    )
