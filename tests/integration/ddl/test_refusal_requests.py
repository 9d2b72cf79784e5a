"""Refused statements of tenants that want it become pending DDLApprovals, by way of the audit store."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.harness.approvals import Approval
from tests.harness.shell import wait_for
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.world import World

from vaultbrix.ddl.refusals.decisions import MOST_AN_HOUR, MOST_PENDING

# A store that was down is asked again at growing pauses.
PATIENCE = 90


@pytest.fixture
def place(world: World) -> Iterator[TenantWithTables]:
    place = TenantWithTables(world)
    world.tenant(place.team, name=place.tenant, ddlPolicy={"requestOnRefusal": True})
    yield place
    # Nobody asks the store for it any more.
    world.tenant(place.team, name=place.tenant)


def opened(place: TenantWithTables, address: str, **spec: Any) -> str:
    name = place.world.rule(place.team, place.tenant, f"{address}/32", **spec)
    place.world.api.await_condition("accessrule", name, place.team)
    return name


def refused(place: TenantWithTables, address: str, *texts: str, **options: Any) -> None:
    for text in texts:
        assert "VBX01" in place.world.psql(address, place.team, place.tenant, text, **options).run().stderr


def requests(place: TenantWithTables) -> list[Approval]:
    # What PostgreSQL logs after it tells that all before is there.
    place.world.postgres.query("SELECT 1")
    listed = place.world.api.request("GET", f"/apis/vaultbrix.com/v1alpha1/namespaces/{place.team}/ddlapprovals")
    labelled = [o for o in listed["items"] if o["metadata"].get("labels", {}).get("vaultbrix.com/from-refusal")]
    return [Approval(place.world, place.team, o["metadata"]["name"]) for o in labelled]


def events(place: TenantWithTables) -> list[str]:
    return place.world.api.kubectl("-n", place.team, "get", "events", "-o", "jsonpath={.items[*].reason}").split()


def requested(place: TenantWithTables, count: int = 1) -> list[Approval]:
    return wait_for(
        f"there are {count} requests",
        lambda: found if len(found := requests(place)) == count else None,
        patience=PATIENCE, pause=0.5, tell=lambda: place.world.operator.text()[-3000:],
    )  # fmt: skip


def test_a_refused_statement_waits_for_an_admin_and_then_runs_for_whom_it_was_refused(place: TenantWithTables) -> None:
    address = "203.0.113.191"
    opened(place, address)
    refused(place, address, "DROP TABLE b", "DROP TABLE b;", "DROP TABLE b")
    (made,) = requested(place)
    spec = made.read()["spec"]
    assert (spec["sql"].rstrip(";"), spec["requestedBy"], spec["execution"]) == (
        "DROP TABLE b", "jane@example.com", "Session",
    )  # fmt: skip
    assert address in spec["reason"]
    assert made.rehearsed()["drops"]
    made.decide(by="jane@example.com")
    made.phase("Denied")
    assert made.condition("Ready")["reason"] == "SelfApproval"
    refused(place, address, "DROP TABLE b")
    # An admin's no stands until it is taken back.
    refused(place, address, "DROP TABLE a CASCADE")
    other = next(r for r in requested(place, 2) if r.name != made.name)
    other.decide()
    wait_for("the pass is open", lambda: other.condition("PassIssued").get("status") == "True", tell=other.tell)
    assert place.world.psql(address, place.team, place.tenant, "DROP TABLE a CASCADE").works()
    other.phase("Succeeded")
    made.delete()
    refused(place, address, "DROP TABLE b")
    again = wait_for(
        "it is asked again", lambda: [r for r in requests(place) if r.name == made.name], patience=PATIENCE, pause=0.5
    )
    assert again[0].uid


def test_nobody_who_may_have_been_refused_decides(place: TenantWithTables) -> None:
    address = "203.0.113.192"
    opened(place, address)
    opened(place, address, requestedBy="bob@example.com")
    refused(place, address, "TRUNCATE b")
    (made,) = requested(place)
    assert set(made.read()["spec"]["requestedBy"].split(",")) == {"jane@example.com", "bob@example.com"}


def test_a_rules_own_login_is_its_tenants(place: TenantWithTables) -> None:
    address = "203.0.113.193"
    name = opened(place, address, login="PerRule")
    refused(place, address, "DROP TABLE b", secret_name=f"{name}-access")
    (made,) = requested(place)
    assert made.read()["spec"]["requestedBy"] == "jane@example.com"


def test_a_text_that_cannot_be_approved_makes_an_event_and_no_request(place: TenantWithTables) -> None:
    address = "203.0.113.194"
    opened(place, address)
    refused(place, address, "BEGIN; DROP TABLE b; COMMIT")
    said = wait_for(
        "there is an event", lambda: events(place), patience=PATIENCE, pause=0.5,
        tell=lambda: place.world.operator.text()[-3000:],
    )  # fmt: skip
    assert said == ["RefusedTextRejected"]
    assert requests(place) == []


def test_texts_that_tracing_makes_differ_each_time_are_asked_for_within_bounds_and_let_no_other_through(
    place: TenantWithTables,
) -> None:
    address = "203.0.113.197"
    opened(place, address)
    before = datetime.now(UTC)

    def variant(n: int) -> str:
        return f"ALTER TABLE b DROP COLUMN id /*traceparent='00-{n:032x}-{n:016x}-01'*/"

    refused(place, address, *map(variant, range(35)))
    said = wait_for("there is an event", lambda: events(place), patience=PATIENCE, pause=0.5)
    made = requested(place, MOST_PENDING)
    assert {one.read()["spec"]["sql"] for one in made} <= set(map(variant, range(35)))
    assert set(said) == {"TooManyRefusals"}
    assert len(said) <= 1 + (datetime.now(UTC).hour != before.hour)
    chosen = made[0]
    chosen.decide()
    wait_for("the pass is open", lambda: chosen.condition("PassIssued").get("status") == "True", tell=chosen.tell)
    refused(place, address, variant(99), "ALTER TABLE b DROP COLUMN id")
    assert place.world.psql(address, place.team, place.tenant, chosen.read()["spec"]["sql"]).works()
    chosen.phase("Succeeded")
    assert len(requests(place)) <= MOST_AN_HOUR


def test_a_tenant_that_did_not_ask_for_it_gets_no_request(place: TenantWithTables) -> None:
    address = "203.0.113.195"
    other = TenantWithTables(place.world)
    opened(other, address)
    refused(other, address, "DROP TABLE b")
    opened(place, "203.0.113.196")
    refused(place, "203.0.113.196", "DROP TABLE b")
    requested(place)
    assert requests(other) == []
