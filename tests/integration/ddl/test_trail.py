"""What became of approvals of DDL is on record once, whoever dies and whatever is away, and outlives the objects."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.harness.approvals import Approval
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.sealed_store import check
from tests.harness.shell import run, wait_for
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.trails import await_events, names, recorded, told
from tests.harness.world import World

HOSTILE = "CHG-1 \x1b[31m\u202eevil\N{ZERO WIDTH SPACE}\n'; DROP"
numbers = itertools.count(1)
LIFE = ("Requested", "Decided", "Started", "Ended")


@pytest.fixture(scope="module")
def module_place(running: World) -> Iterator[TenantWithTables]:
    running.heal()
    with recorded(running):
        yield TenantWithTables(running)


@pytest.fixture
def place(module_place: TenantWithTables) -> TenantWithTables:
    module_place.world.heal()
    return module_place


def table(place: TenantWithTables) -> str:
    """A table to drop, made for one test."""
    name = f"gone_{next(numbers)}"
    place.sql(f"CREATE TABLE {name}()")
    return name


def gone(made: Approval) -> None:
    wait_for("the object is gone", lambda: not made.world.api.get("ddl", made.name, made.team), tell=made.tell)


def audit(world: World, *arguments: str) -> str:
    environment = {**world.store.environment(world.store.reader), "PYTHONPATH": "operator"}
    return run(*VAULTBRIX, "audit", *arguments, env=environment).stdout


def test_all_that_became_of_one_is_told_after_it_is_gone(place: TenantWithTables) -> None:
    world = place.world
    made = place.submit(f"DROP TABLE {table(place)}")
    uid = made.uid
    made.decide(message=HOSTILE)
    assert made.pod().run() == 0
    made.phase("Succeeded")
    # One that is over and told is held up by nobody.
    wait_for("its finalizers are gone", lambda: not made.read()["metadata"].get("finalizers"), tell=made.tell)
    world.operator.stop()
    made.delete()
    gone(made)
    world.operator.start()
    requested, decided, started, ended = await_events(world, uid, *LIFE)
    about = {"kind": "DDLApproval", "namespace": place.team, "name": made.name, "uid": uid, "server": "main"}
    for event in (requested, decided, started, ended):
        assert {key: event[key] for key in about} == about
        assert event["tenant"] == f"{place.team}/{place.tenant}"
    assert (requested["by"], requested["message"], len(requested["sha256"])) == ("jane@example.com", "tests", 64)
    assert (decided["by"], decided["verdict"], decided["counts"]) == ("boss@example.com", "Approved", True)
    assert (decided["message"], decided["sha256"]) == (HOSTILE, requested["sha256"])
    assert (ended["reason"], ended["executed"]) == ("Succeeded", 1)

    shown = audit(world, "approvals", f"{place.team}/{made.name}")
    for words in ("boss@example.com", "jane@example.com", "Succeeded", "Approved", "CHG-1", "<U+202E>", "<U+001B>"):
        assert words in shown
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown
    assert audit(world, "approvals", uid) == shown
    lines = [json.loads(line) for line in audit(world, "approvals", uid, "--output=json").splitlines()]
    assert [line["detail"]["event"] for line in lines] == list(LIFE)
    assert "no approval is on record" in audit(world, "approvals", "nobody/nothing")


def test_rows_of_a_jobs_statements_name_the_approver_beside_the_person(place: TenantWithTables) -> None:
    name = table(place)
    made = place.submit(f"DROP TABLE {name}")
    made.decide()
    assert made.pod().run() == 0
    made.phase("Succeeded")
    rows = wait_for(
        "it is on record",
        lambda: place.world.store.query(
            "SELECT person, approver, ground FROM audit.statement WHERE statement = %s AND outcome = 'ok'"
            " AND role ^@ 'vaultbrix_d_'",
            [f"DROP TABLE {name}"],
        ),
        tell=place.world.shipper.text,
    )
    assert rows == [("jane@example.com", "boss@example.com", f"{place.team}/{made.name}")]
    found = audit(place.world, "query", "--approver=boss@example.com", "--output=json")
    assert name in found
    assert all(json.loads(line)["approver"] == "boss@example.com" for line in found.splitlines())
    assert "jane@example.com, approved by boss@example.com" in audit(
        place.world, "query", "--approver=boss@example.com"
    )


def test_rows_of_a_text_that_the_tenant_sends_itself_name_both_and_no_other_row_can(place: TenantWithTables) -> None:
    world, address, name = place.world, "203.0.113.220", table(place)
    rule = world.rule(place.team, place.tenant, f"{address}/32")
    world.api.await_condition("accessrule", rule, place.team)
    made = place.submit(f"DROP TABLE {name}", execution="Session")
    made.decide()
    wait_for("the pass is open", lambda: made.condition("PassIssued").get("status") == "True", tell=made.tell)
    said = json.dumps({"approval": made.uid, "by": "eve@example.com"})
    forged = f"DO $$ BEGIN RAISE LOG 'APPROVED: {said}'; END $$"
    before, after = f"SELECT 'before {name}'", f"SELECT 'after {name}'"
    text = f"DROP TABLE {name}"
    assert world.psql(address, place.team, place.tenant, before, forged, text, after).works()

    def rows(statement: str) -> list[tuple[object, ...]]:
        asked = "SELECT person, approver, ground FROM audit.statement WHERE statement = %s AND role ^@ 'tenant_'"
        return wait_for("it is on record", lambda: world.store.query(asked, [statement]), tell=world.shipper.text)

    own = f"{place.team}/{rule}"
    assert rows(after) == rows(before) == rows(forged) == [("jane@example.com", "", own)]
    both = f"{own}, {place.team}/{made.name}"
    assert rows(text) == [("jane@example.com", "boss@example.com", both)]
    kinds = world.store.query(
        "SELECT kind, approver FROM audit.record WHERE message ^@ 'APPROVED: ' AND role = %s ORDER BY line_num",
        [place.role],
    )
    assert kinds[0] == ("forged", "")
    assert set(kinds[1:]) == {("gate", "boss@example.com")}
    made.phase("Succeeded")
    *_, started, ended = await_events(world, made.uid, *LIFE)
    assert "own session" in started["why"]
    assert ended["executed"] == 1


def test_a_denial_and_a_decision_that_does_not_count_are_told_with_the_reason(place: TenantWithTables) -> None:
    denied = place.submit("DROP TABLE b")
    denied.decide("Denied", message="no")
    _, event = await_events(place.world, denied.uid, "Requested", "Decided")
    assert (event["verdict"], event["counts"], event["message"]) == ("Denied", True, "no")
    own = place.submit("DROP TABLE b")
    own.decide(by="jane@example.com")
    own.phase("Denied")
    _, event = await_events(place.world, own.uid, "Requested", "Decided")
    assert (event["by"], event["counts"], event["reason"]) == ("jane@example.com", False, "SelfApproval")
    assert "cannot decide on it" in event["why"]


def test_of_two_who_decide_at_once_the_one_that_counts_is_told(place: TenantWithTables) -> None:
    made = place.submit("DROP TABLE b")
    made.decide("Denied", by="first@example.com")
    said = made.world.api.patch(
        "ddl", made.name, made.team,
        {"spec": {"decision": {"verdict": "Approved", "by": "second@example.com", "sha256": made.status["sha256"]}}},
    )  # fmt: skip
    assert "written once" in said
    _, event = await_events(place.world, made.uid, "Requested", "Decided")
    assert event["by"] == "first@example.com"


def test_one_that_is_withdrawn_says_how_far_it_had_come(place: TenantWithTables) -> None:
    waiting = place.submit("DROP TABLE b")
    waiting.rehearsed()
    uid = waiting.uid
    waiting.delete()
    gone(waiting)
    await_events(place.world, uid, "Requested", "Withdrawn")
    approved = place.submit("DROP TABLE b", execution="Session")
    approved.decide()
    approved.phase("Approved")
    uid = approved.uid
    approved.delete()
    gone(approved)
    *_, event = await_events(place.world, uid, "Requested", "Decided", "Withdrawn")
    assert event["executed"] == 0


def test_one_that_expired_and_one_that_cannot_be_read_are_told(place: TenantWithTables) -> None:
    short = place.submit("DROP TABLE b", execution="Session", validFor="2s")
    short.decide()
    *_, event = await_events(place.world, short.uid, "Requested", "Decided", "Ended")
    assert (event["reason"], event["executed"]) == ("Expired", 0)
    wrong = place.submit("DROP TABEL b")
    *_, event = await_events(place.world, wrong.uid, "Requested", "Ended")
    assert event["reason"] == "Invalid"


def test_a_store_that_is_away_holds_up_nothing_but_the_end_of_deleted_objects(place: TenantWithTables) -> None:
    world = place.world
    world.store.postgres.stop()
    made = place.submit(f"DROP TABLE {table(place)}")
    uid = made.uid
    made.decide()
    assert made.pod().run() == 0
    made.phase("Succeeded")
    world.api.delete("ddl", made.name, made.team, wait=False)
    wait_for("it says why it stays", lambda: "audit store" in made.status["trail"]["message"], tell=made.tell)
    assert [event["event"] for event in made.status["trail"]["waiting"]] == list(LIFE)
    world.operator.kill()
    world.store.postgres.start()
    world.operator.start()
    gone(made)
    await_events(world, uid, *LIFE)


@pytest.mark.parametrize("step", ["reported", "finalizer written", "put on record"])
def test_an_operator_that_dies_on_the_way_tells_it_once(place: TenantWithTables, mortal: Path, step: str) -> None:
    world = place.world

    def dies(action: Callable[[], object]) -> None:
        mortal.write_text(step)
        action()
        wait_for(f"it dies: {step}", lambda: not world.operator.running, patience=60, tell=world.operator.text)
        mortal.unlink()
        world.operator.start()

    made = place.submit("DROP TABLE b")
    made.rehearsed()
    uid = made.uid
    await_events(world, uid, "Requested")
    if step == "finalizer written":
        dies(lambda: world.api.delete("ddl", made.name, made.team, wait=False))
        gone(made)
        await_events(world, uid, "Requested", "Withdrawn")
        return
    dies(lambda: made.decide("Denied"))
    await_events(world, uid, "Requested", "Decided")
    dies(lambda: world.api.delete("ddl", made.name, made.team, wait=False)) if step == "reported" else made.delete()
    gone(made)
    assert names(world, uid) == ["Requested", "Decided"]


def test_a_second_replica_goes_on_where_the_first_one_died(
    place: TenantWithTables, mortal: Path, request: pytest.FixtureRequest
) -> None:
    world = place.world
    wait_for("the first one leads", lambda: world.leader() == "test", patience=60)
    second: Process = request.getfixturevalue("second_operator")
    made = place.submit("DROP TABLE b")
    made.rehearsed()
    uid = made.uid
    await_events(world, uid, "Requested")
    mortal.write_text("put on record")
    made.decide("Denied")
    wait_for("the first one died", lambda: not world.operator.running, patience=60, tell=world.operator.text)
    wait_for(
        "the second one has put it down", lambda: not made.status["trail"]["waiting"], patience=90,
        tell=second.text,
    )  # fmt: skip
    assert names(world, uid) == ["Requested", "Decided"]
    mortal.unlink()


def test_an_event_that_was_tampered_with_is_found(place: TenantWithTables) -> None:
    world = place.world
    made = place.submit("DROP TABLE b")
    made.decide("Denied")
    await_events(world, made.uid, "Requested", "Decided")
    wait_for(
        "it is sealed",
        lambda: world.store.query("SELECT count(*) FROM audit.event WHERE batch IS NULL") == [(0,)],
        tell=world.shipper.text,
    )
    assert check(world.store).findings == []
    name = "detail = jsonb_set(detail, '{by}', '\"%s\"') WHERE detail->>'uid' = %%s AND detail->>'event' = 'Decided'"
    world.store.query(f"UPDATE audit.event SET {name % 'eve@example.com'}", [made.uid])  # type: ignore[arg-type]
    assert [finding.fault.name for finding in check(world.store).findings] == ["ROW_CHANGED"]
    world.store.query(f"UPDATE audit.event SET {name % 'boss@example.com'}", [made.uid])  # type: ignore[arg-type]
    assert check(world.store).findings == []
    assert told(world, made.uid)[-1]["by"] == "boss@example.com"
