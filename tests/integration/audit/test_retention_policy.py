"""Policies of retention hold from then on and are on record; a manager can keep retention and nothing else."""

import json
from collections.abc import Iterator

import psycopg
import pytest
from tests.harness.retention_store import RetentionStore, ago, name, running, settled, today


@pytest.fixture(scope="module")
def kept() -> Iterator[RetentionStore]:
    with running() as past:
        yield past


@pytest.fixture
def past(kept: RetentionStore) -> Iterator[RetentionStore]:
    with settled(kept) as past:
        yield past


def test_a_policy_holds_for_what_is_stored_from_then_on(past: RetentionStore) -> None:
    past.write(ago(8))
    past.stored()
    said = past.retention("set", "--days=5")
    try:
        assert "5 days hold for records that are stored from half a minute on" in said
        assert "any" in past.retention("show")
        past.retention("apply")
        assert ago(8) in past.days()
        past.shipper.stop()
        past.shipper.start()
        past.write(ago(8))
        past.stored()
        assert f"dropped {name(ago(8), 5)}" in past.retention("apply")
        assert past.store.query(
            "SELECT count(*) FROM audit.record WHERE (at AT TIME ZONE 'UTC')::date = %s", [ago(8)]
        ) == [(1,)]
    finally:
        past.retention("set", "--days=30")
        past.shipper.stop()
        past.shipper.start()


def test_every_change_of_a_policy_is_on_record_with_the_old_days_and_the_new(past: RetentionStore) -> None:
    scope = ("--tenant=team/a", "--class=READ")
    past.retention("set", "--days=90", *scope)
    past.retention("set", "--days=90", *scope)
    past.retention("set", "--days=60", *scope)
    past.retention("remove", *scope)
    found = past.store.query(
        "SELECT actor, detail->>'old', detail->>'new' FROM audit.event WHERE kind = 'retention'"
        " AND detail->>'tenant' = 'team/a' AND detail->>'class' = 'READ' ORDER BY id"
    )
    assert found == [("manager", None, "90"), ("manager", "90", "60"), ("manager", "60", None)]


def test_the_archive_comes_first_where_a_policy_says_so(past: RetentionStore) -> None:
    past.write(ago(35))
    past.stored()
    past.retention("set", "--days=30", "--archive-first")
    try:
        said = past.retention("apply", check=False)
        assert f"not in the archive: {name(ago(35))}" in said
        with past.open() as link, pytest.raises(psycopg.errors.RaiseException, match="is not in the archive"):
            link.execute("SELECT audit.drop_partition(%s)", [name(ago(35))])
        upto = {"main": past.store.query("SELECT max(batch) FROM audit.batch")[0][0]}
        exported = "SELECT audit.exported(%s, '{30}', %s, sha256('manifest'), '{}')"
        past.store.query(exported, [ago(35), json.dumps(upto)])
        past.write(ago(35))
        past.stored()
        assert "not in the archive" in past.retention("apply", check=False)
        upto = {"main": past.store.query("SELECT max(batch) FROM audit.batch")[0][0]}
        past.store.query(exported.replace("manifest", "later"), [ago(35), json.dumps(upto)])
        assert f"dropped {name(ago(35))}" in past.retention("apply")
    finally:
        past.retention("set", "--days=30")


def test_a_policy_that_makes_no_sense_is_refused(past: RetentionStore) -> None:
    for arguments, said in (
        (("set", "--days=0"), "0 is not in the range"),
        (("set", "--days=36501"), "36501 is not in the range"),
        (("set", "--days=5", "--class=SELECT"), "--class: SELECT is none of READ, WRITE"),
        (("set", "--days=5", "--tenant=acme"), "--tenant: acme is not namespace/name"),
        (("remove", "--tenant=team/none"), "there is no such policy"),
    ):
        assert said in past.retention(*arguments, check=False)


def test_a_manager_keeps_retention_and_nothing_else(past: RetentionStore) -> None:
    forbidden = (
        "SELECT * FROM audit.record",
        "SELECT * FROM audit.quarantine",
        f"DROP TABLE audit.{name(today())}",
        f"SELECT * FROM audit.{name(today())}",
        "DELETE FROM audit.record",
        "UPDATE audit.event SET detail = '{}'",
        "INSERT INTO audit.event(kind, actor, detail) VALUES ('expired', 'me', '{}')",
        "SELECT audit.redact_person('x', 'y', true)",
        "SELECT audit.erase('record', '{}', NULL, '{}')",
        "SELECT audit.ensure_partition('2000-01-01', 1)",
        "TRUNCATE audit.retention",
        "ALTER TABLE audit.retention DISABLE TRIGGER noted",
        "SELECT audit.newest_day()",
    )
    with past.open() as link:
        for statement in forbidden:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                link.execute(statement.encode())
        for wrong in (name(today()), "record_20000101_30", "event", "record", "record_20000101_30; DROP"):
            with pytest.raises(psycopg.errors.RaiseException):
                link.execute("SELECT audit.drop_partition(%s)", [wrong])
        with link.transaction():
            link.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            with pytest.raises(psycopg.errors.RaiseException, match="read committed"), link.transaction():
                link.execute("SELECT audit.drop_partition(%s)", [name(ago(30))])
        with pytest.raises(psycopg.errors.RaiseException, match="cannot be changed"):
            link.execute("UPDATE audit.retention SET tenant = 'other'")


def test_only_a_manager_keeps_retention(past: RetentionStore) -> None:
    calls = (
        "SELECT audit.drop_partition('record_20000101_400')",
        "SELECT audit.drop_empty_days(1)",
        "SELECT audit.expire_quarantine(true)",
        "SELECT * FROM audit.kept()",
        "INSERT INTO audit.retention VALUES ('x', '', 1)",
    )
    for group in ("audit_append", "audit_read", "audit_tenant", "audit_redact"):
        for call in calls:
            with past.store.open() as link, pytest.raises(psycopg.errors.InsufficientPrivilege):
                link.execute(f"SET ROLE {group}")
                link.execute(call.encode())
