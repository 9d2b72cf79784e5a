"""The archive answers as the store does, and where a day is in either of them, it is answered once."""

import datetime as dt
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from tests.harness.client_messages import CASES, HIDING, SETUP
from tests.harness.data_api_sessions import DataApiSession, about, key_refused, note_refusals, refused, serve_data_api
from tests.harness.database import send
from tests.harness.shipping import JANE, Shipping, shipping

from vaultbrix.audit import query, rows, seal
from vaultbrix.audit.archive import cold
from vaultbrix.audit.archive.columns import RECORD
from vaultbrix.audit.archive.export import Exporter, Options
from vaultbrix.audit.archive.place import Place
from vaultbrix.audit.query import Filter
from vaultbrix.gateway import refusals
from vaultbrix.gateway.refusals import Why

ROLE, PAT = "tenant_sent", "pat@example.com"
ALL = Filter(dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 1, 1, tzinfo=dt.UTC), everybody=True)
MOST = 1_000_000


@dataclass
class Both:
    """A day's record in the store, and the same in an archive."""

    parts: Shipping
    archive: cold.Archive

    def hot(self, wanted: Filter, limit: int = MOST) -> list[dict[str, Any]]:
        with self.parts.store.open(options=rows.SETTINGS) as connection:
            return [
                {**row, "address": row["address"] and str(row["address"])}
                for row in query.latest(connection, wanted, limit)
            ]

    def cold(self, wanted: Filter, limit: int = MOST) -> list[dict[str, Any]]:
        return cold.latest(self.archive, wanted, self.archive.days, limit)


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with shipping() as parts:
        role = parts.database.tenant("sent")
        parts.open_grants(ROLE, approver=PAT)
        parts.database.tenant("other")
        with parts.database.login(role) as connection:
            for statement in SETUP:
                connection.execute(statement)
        for work, _ in (CASES | HIDING).values():
            with parts.database.login(role) as connection:
                try:
                    work(connection)
                except psycopg.Error:
                    pass
        with parts.database.login("tenant_other", application_name="x") as connection:
            send(connection, "SELECT 'other''s'")
        serve_data_api(parts.database, role, "tenant_other")
        for each, said in (
            (role, about(role, "1" * 32)),
            (role, about(f"{role}_anon", "3" * 32, key="team/app", subject="jo")),
            ("tenant_other", about("tenant_other", "2" * 32, tenant="team/other", key="team/app", subject="jo")),
        ):
            session = DataApiSession(parts.database, each)
            for request in (said["request"], "f" * 32):
                with session.request({**said, "request": request}) as api:
                    api.execute("SELECT * FROM generate_series(1, 3)")
                    api.execute("SELECT nothing")
            session.close()
            parts.statements(session.pid)
        note_refusals(
            parts.database,
            refused(key_refused(Why.KEY_CLOSED, "sent", "app"), "5" * 32, client="2001:db8::7"),
            refused(key_refused(Why.KEY_EXPIRED, "other", "web"), "1" * 32, path="/rest/v1/100%_"),
            refused(refusals.bad_key(Why.KEY_UNKNOWN), "6" * 32),
            {"why": "LeftOut", "count": 7},
        )
        parts.settle()
        key, public = seal.new_key()
        place = Place(str(parts.path / "archive"))
        with parts.store.open(options=rows.SETTINGS) as connection:
            exporter = Exporter(connection, place, seal.Signer(key.encode()), lambda *_: None)
            for day in query.days(connection):
                later = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
                assert not exporter.export(day, Options(unawaited=frozenset({"main"})), now=later).why
        yield Both(parts, cold.open_archive(place, seal.public_keys(public.encode())))


def test_a_day_of_every_kind_of_message_is_told_the_same(both: Both) -> None:
    hot = both.hot(ALL)
    assert len(hot) > 100
    assert both.cold(ALL) == hot


def test_files_from_before_there_were_approvers_are_read_and_name_none(both: Both, tmp_path: Path) -> None:
    old = tmp_path / "archive"
    shutil.copytree(both.archive.place.path(""), old)
    files = [file for file in old.rglob("record*.parquet") if pq.read_schema(file).names[-1] == "approver"]
    assert files
    for file in files:
        table = pq.read_table(file).drop_columns("approver")
        assert RECORD.reads(table.schema)
        pq.write_table(table, file)
    found = replace(both, archive=replace(both.archive, place=Place(str(old))))
    assert {row["approver"] for row in both.cold(ALL)} == {"", PAT}
    assert found.cold(ALL) == [{**row, "approver": ""} for row in both.cold(ALL)]
    assert found.cold(replace(ALL, approver=PAT)) == []


def test_a_request_has_its_own_statements_in_both(both: Both) -> None:
    wanted = replace(ALL, request="1" * 32)
    texts = ["SELECT * FROM generate_series(1, 3)", "SELECT nothing", "ROLLBACK"]
    assert [row["statement"] for row in both.hot(wanted)] == texts
    assert [row["statement"] for row in both.cold(wanted)] == texts


def test_each_filter_finds_the_same(both: Both) -> None:
    middle = both.hot(ALL)[60]["at"]
    for change in (
        {"tenants": ("team/tenant_sent",)},
        {"approver": PAT},
        {"tenants": ()},
        {"person": JANE},
        {"person": "nobody"},
        {"authorization": "team/jane"},
        {"authorization": "key:team/web"},
        {"key": "web"},
        {"key": "app", "person": "user:jo"},
        {"key": "eb"},
        {"request": "1" * 32},
        {"request": "2" * 32, "everybody": False},
        {"request": "3" * 32, "outcome": "error"},
        {"request": "4" * 32},
        {"request": "f" * 32},
        {"address": "127.0.0.0/8"},
        {"address": "10.0.0.0/8"},
        {"role": "tenant_other"},
        {"object": "t"},
        {"object": "tenant_sent.trail"},
        {"class_": "MISC"},
        {"class_": "WRITE"},
        {"command": "COMMIT"},
        {"command": "DROP TABLE"},
        {"outcome": "ok"},
        {"outcome": "error"},
        {"outcome": "refused"},
        {"outcome": "cancelled"},
        {"text": "TRAIL"},
        {"text": "other's"},
        {"text": "100%_"},
        {"everybody": False},
        {"since": middle},
        {"until": middle},
        {"class_": "READ", "text": "peek", "everybody": False},
        *(
            {"kinds": ("statement", "refusal"), **more}
            for more in (
                {},
                {"everybody": False},
                {"kinds": ("refusal",)},
                {"tenants": ("apps/other",)},
                {"key": "app"},
                {"authorization": "key:apps/app"},
                {"request": "1" * 32},
                {"request": "5" * 32},
                {"address": "2001:db8::/32"},
                {"text": "REST/V1/NOTES"},
                {"text": "100%_"},
                {"text": "7 requests"},
                {"outcome": "refused"},
                {"outcome": "ok"},
                {"role": "tenant_other"},
                {"person": "nobody"},
                {"object": "t"},
                {"class_": "READ"},
                {"command": "GET"},
            )
        ),
    ):
        wanted = replace(ALL, **change)  # type: ignore[arg-type]
        assert (change, both.cold(wanted)) == (change, both.hot(wanted))


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_the_latest_are_the_same(both: Both, limit: int) -> None:
    for wanted in (ALL, replace(ALL, outcome="error"), replace(ALL, person=JANE)):
        assert both.cold(wanted, limit) == both.hot(wanted, limit)
