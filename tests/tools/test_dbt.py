"""dbt and the gate: it builds its relations anew at each run, as the policy names them, and nothing beside them."""

from pathlib import Path

import pytest
from tests.harness.database import Database
from tests.harness.dbt import Dbt
from tests.harness.migration_project import Held, client_of

Shop = Held[Dbt]
MODELS = {"mart_paid", "mart_daily", "mart_top", "mart_events"}


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Shop:
    """A tenant with a table of orders, and a dbt project that reads it."""
    held = Held(database.postgres, client_of(database, Dbt, tmp_path))
    held.tool.begin()
    return held


def relations(shop: Shop) -> dict[str, int]:
    """Tables and views by name, with their oids: one that was built anew has another."""
    return dict(
        shop.query(
            "SELECT relname, oid FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'v', 'm')",
            shop.role,
        )
    )


def test_without_the_policy_the_second_run_is_refused_and_leaves_nothing_half_done(shop: Shop) -> None:
    shop.tool.succeed("run")
    shop.tool.succeed("snapshot")
    before = relations(shop)
    assert set(before) == {*MODELS, "orders", "orders_history"}
    shop.tool.next_day()
    refused = shop.tool.dbt("run")
    assert refused.returncode == 1
    assert "ALTER TABLE requires an approved DDLApproval" in refused.stdout
    assert "it would alter view" in refused.stdout
    assert relations(shop) == before
    assert shop.query("SELECT * FROM mart_daily") == [shop.tool.FIRST_DAY]
    shop.tool.succeed("snapshot")
    shop.tool.succeed("run", "--select", "mart_events")
    assert relations(shop) == before
    assert len(shop.query("SELECT FROM mart_events")) == 3


def test_with_the_policy_each_run_builds_anew_and_the_rows_of_others_stay(shop: Shop) -> None:
    shop.allow_rebuilding("mart_*")
    shop.tool.succeed("seed")
    seen = [relations(shop)]
    for days in range(3):
        shop.tool.succeed("run")
        shop.tool.succeed("snapshot")
        seen.append(relations(shop))
        assert set(seen[-1]) == {*MODELS, "mart_country", "orders", "orders_history"}
        assert len(shop.query("SELECT FROM mart_daily")) == 1 + days
        shop.tool.next_day()
    first, second, third = seen[1:]
    for model in MODELS - {"mart_events"}:
        assert len({first[model], second[model], third[model]}) == 3
    for kept in ("mart_events", "orders", "orders_history"):
        assert first[kept] == second[kept] == third[kept]
    assert shop.query("SELECT id, status FROM orders_history ORDER BY dbt_updated_at") == list(shop.tool.HISTORY)
    shop.tool.succeed("build", "--full-refresh")
    assert len(shop.query("SELECT FROM mart_events")) == len(shop.query("SELECT FROM orders")) == 5
    assert shop.refused() == []


def test_view_of_others_that_reads_a_model_stays_and_stops_the_run_that_would_drop_it(shop: Shop) -> None:
    shop.allow_rebuilding("mart_*")
    shop.tool.succeed("run")
    shop.tool.sql("CREATE VIEW report AS SELECT * FROM mart_daily")
    shop.tool.next_day()
    for _ in range(2):
        refused = shop.tool.dbt("run")
        assert refused.returncode == 1
        assert f"it would lose view {shop.role}.report" in refused.stdout
        assert shop.query("SELECT * FROM report") == [shop.tool.FIRST_DAY]
    shop.approve(shop.refused()[-1])
    shop.tool.succeed("run")
    assert "report" not in relations(shop)
