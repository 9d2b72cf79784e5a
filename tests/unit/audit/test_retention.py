"""What is due, and which policies follow from manifests."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import server, tenant

from vaultbrix.api.audit_retention import AuditRetention
from vaultbrix.api.conditions import Reason
from vaultbrix.audit.records import Record
from vaultbrix.audit.retention.decisions import (
    Clocks,
    Dropped,
    Outcome,
    Partition,
    Policy,
    changes,
    disagreement,
    due,
    required_policies,
    shorter_than_server,
    unexported,
    verdict,
)
from vaultbrix.audit.shipping.keeping import Keeping

DAY = date(2026, 1, 1)
OURS = Policy(30, managed=True)

days = st.dates(date(2020, 1, 1), date(2040, 1, 1))
times = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
partitions = st.builds(Partition, st.text(max_size=3), days, st.integers(1, 5000), st.booleans(), st.just(0))


def partition(keep: int) -> Partition:
    return Partition(f"record_20260101_{keep}", DAY, keep, True, 0)


def clocks(day: date, *, here: int = 0, store: int = 0, newest: int = 0) -> Clocks:
    """All at noon of that day, some that many days ahead."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return Clocks(noon + timedelta(days=here), noon + timedelta(days=store), day + timedelta(days=newest))


def test_a_partition_is_due_once_its_last_record_is_as_old_as_it_is_kept() -> None:
    assert due([partition(30)], clocks(date(2026, 1, 31))) == []
    assert due([partition(30)], clocks(date(2026, 2, 1))) == [partition(30)]


def test_no_clock_alone_makes_anything_due() -> None:
    for ahead in ({"here": 999}, {"store": 999}, {"newest": 999}, {"here": 999, "store": 999}):
        assert due([partition(30)], clocks(date(2026, 1, 15), **ahead)) == []
    assert disagreement([partition(30)], clocks(date(2026, 1, 15), here=999)) == [partition(30)]
    assert disagreement([partition(30)], clocks(date(2026, 1, 15))) == []


def test_of_an_empty_store_nothing_is_due() -> None:
    assert due([partition(1)], Clocks(datetime.now(UTC), datetime.now(UTC), None)) == []


@given(st.lists(partitions), times, times, days)
def test_no_record_goes_before_its_days_have_passed_by_every_clock(
    found: list[Partition], here: datetime, store: datetime, newest: date
) -> None:
    for one in due(found, Clocks(here, store, newest)):
        youngest = datetime(one.day.year, one.day.month, one.day.day, tzinfo=UTC) + timedelta(days=1)
        for clock in (here, store, datetime(newest.year, newest.month, newest.day, tzinfo=UTC)):
            assert clock >= youngest + timedelta(days=one.keep)


def test_manifests_say_what_holds_and_leave_the_rest() -> None:
    stored = {
        ("", ""): Policy(400),
        ("team/a", ""): OURS,
        ("team/b", ""): Policy(30),
        ("team/gone", "READ"): OURS,
        ("team/hand", ""): Policy(7),
    }
    asked = {("team/a", ""): OURS, ("team/b", ""): OURS, ("team/c", "DDL"): OURS}
    found = changes(asked, stored)
    assert found.put == {("team/b", ""): OURS, ("team/c", "DDL"): OURS}
    assert found.remove == {("team/gone", "READ")}


def kept(policies: dict[tuple[str, str], Policy], of: str, class_: str) -> int:
    """How long the shipper keeps a statement."""
    record = Record(
        server="main", at=datetime.now(UTC), session_id="s", line_num=1, kind="statement", pid=1, role="r", tenant=of,
        person="", authorization="", database=None, address=None, application=None, tag="", vxid=None, class_=class_,
    )  # fmt: skip
    return Keeping({scope: policy.days for scope, policy in policies.items()}).days(record)


CLASSES = ("READ", "WRITE", "FUNCTION", "ROLE", "DDL", "MISC")
numbers = st.integers(1, 36500)
retentions = st.none() | st.builds(
    lambda days, classes: {**({} if days is None else {"days": days}), "classes": classes},
    st.none() | numbers,
    st.dictionaries(st.sampled_from(CLASSES), numbers, max_size=2),
)


@given(st.lists(retentions, min_size=1, max_size=3), st.lists(st.tuples(st.integers(0, 2), retentions), max_size=3))
def test_each_record_is_kept_as_its_server_says_or_for_longer_if_its_tenant_says_so(
    servers: list[Any], tenants: list[tuple[int, Any]]
) -> None:
    of = [server(f"s{n}", **({} if said is None else {"auditRetention": said})) for n, said in enumerate(servers)]
    placed = [(n, home % len(of), said) for n, (home, said) in enumerate(tenants)]
    policy = required_policies(
        of,
        [
            tenant(f"t{n}", serverRef={"name": f"s{home}"}, **({} if said is None else {"auditRetention": said}))
            for n, home, said in placed
        ],
    )
    for n, home, said in placed:
        mine = AuditRetention.model_validate(said or {}).by_class
        theirs = AuditRetention.model_validate(servers[home] or {}).by_class
        for class_ in CLASSES:
            of_server = theirs.get(class_, theirs.get("", 400))
            of_tenant = mine.get(class_, mine.get("", 0))
            assert kept(policy, f"team/t{n}", class_) == max(of_server, of_tenant)
    for class_ in CLASSES:
        each = [AuditRetention.model_validate(said or {}).by_class for said in servers]
        assert kept(policy, "", class_) == max(said.get(class_, said.get("", 400)) for said in each)


def test_what_a_tenant_asks_for_in_vain_is_told() -> None:
    kept_long = server(auditRetention={"days": 400, "classes": {"READ": 90}})
    asking = tenant(auditRetention={"days": 30, "classes": {"READ": 100, "DDL": 399}})
    assert shorter_than_server(kept_long, asking) == (
        "of spec.auditRetention has no effect, being shorter:"
        " days 30 (the PostgresServer says 400), DDL 399 (the PostgresServer says 400)"
    )
    assert shorter_than_server(kept_long, tenant(auditRetention={"days": 400})) == ""
    assert shorter_than_server(server(), tenant()) == ""


def test_where_nobody_says_anything_nothing_is_written() -> None:
    assert required_policies([server()], [tenant()]) == {}


def test_servers_that_agree_need_no_policy_for_each_tenant() -> None:
    said = {"days": 90, "classes": {"READ": 7}}
    found = required_policies(
        [server(auditRetention=said), server("b", auditRetention=said)], [tenant(), tenant("beta")]
    )
    assert {scope: policy.days for scope, policy in found.items()} == {("", ""): 90, ("", "READ"): 7}


def test_the_archive_comes_first_where_one_server_says_so() -> None:
    found = required_policies([server(), server("b", auditRetention={"archiveFirst": True})], [tenant()])
    assert found == {("", ""): Policy(400, archive=True, managed=True)}
    outside = replace(partition(30), archive_allows=False)
    assert due([outside], clocks(date(2027, 1, 1))) == []
    assert unexported([outside, partition(30)], clocks(date(2027, 1, 1))) == [outside]


def test_the_verdict_names_what_stays_and_the_remedy() -> None:
    at = datetime(2026, 12, 1, tzinfo=UTC)
    status, reason, message = verdict(Outcome([Dropped(partition(30), 12)]), at)
    assert (status, reason, message) == (True, Reason.APPLIED, "on 2026-12-01, 1 partition with 12 rows was dropped")
    held = [partition(days) for days in range(1, 6)]
    status, reason, message = verdict(Outcome([], held), at)
    assert (status, reason) == (False, Reason.HELD_BY_QUERY)
    assert "record_20260101_3 and 2 more" in message
    assert verdict(Outcome([], [], held), at)[:2] == (False, Reason.NOT_ARCHIVED)
    status, reason, message = verdict(Outcome([], [], [], held), at)
    assert (status, reason) == (False, Reason.CLOCKS_DISAGREE)
    assert "set the clocks right" in message
