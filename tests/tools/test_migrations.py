"""Migration tools and the gate: what creates runs freely, what destroys waits for its approval, books stay true."""

from pathlib import Path

import pytest
from tests.harness.database import Database
from tests.harness.migration_project import Project, made
from tests.harness.migration_tool import Tool
from tests.harness.migration_tools import GolangMigrate, Sqlx
from tests.harness.npm_migration_tools import Prisma

from vaultbrix.ddl.plan import digest

ADDED = {"note", "referrer_id"}


def test_creating_migration_runs_freely_and_an_additive_one_waits_for_its_approval(project: Project[Tool]) -> None:
    project.begin()
    project.tool.release(1)
    project.migrate()
    before = project.state()
    assert {"id", "total", "legacy"} <= before.orders
    assert len(before.applied) == 1
    project.tool.release(2)
    assert project.tool.migrate().returncode != 0
    assert project.state() == before
    project.tool.recover(2)
    project.approve(project.tool.text(2))
    project.migrate()
    assert project.state().orders == before.orders | ADDED


def test_of_several_pending_migrations_those_before_the_refused_one_stay_if_each_is_a_transaction(
    project: Project[Tool],
) -> None:
    project.begin()
    project.tool.release(1)
    project.migrate()
    before = project.state()
    project.tool.release(2)
    project.approve(project.tool.text(2))
    project.tool.release(3)
    assert project.tool.migrate().returncode != 0
    state = project.state()
    assert state.orders == before.orders | (ADDED if project.tool.keeps else set())
    assert (state.applied != before.applied) == project.tool.keeps


def test_empty_database_needs_an_approval_only_where_each_migration_is_a_transaction(project: Project[Tool]) -> None:
    project.begin()
    project.tool.release(3)
    refused = project.tool.migrate().returncode != 0
    assert refused == project.tool.keeps
    assert len(project.state().applied) == (1 if refused else 3)


def test_additive_migration_runs_freely_where_the_policy_says_so(project: Project[Tool]) -> None:
    if not project.tool.additive:
        pytest.skip("it sends more than additions, or nests them")
    project.allow_additive()
    project.tool.release(2)
    project.migrate()
    assert project.state().orders >= ADDED
    assert project.refused() == []


def test_refused_migration_says_what_to_do_leaves_nothing_half_done_and_runs_approved_once(
    project: Project[Tool],
) -> None:
    project.migrated()
    before = project.state()
    project.tool.release(3)
    refused = project.tool.migrate()
    said = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "requires an approved DDLApproval" in said
    sha256, hint = digest(project.refused()[-1]).hex(), "Create a DDLApproval with exactly this SQL"
    assert (sha256 in said) == ("detail" in project.tool.shows)
    assert (hint in said) == ("hint" in project.tool.shows)
    assert project.state() == before
    project.tool.recover(3)
    project.approve(project.tool.text(3))
    project.migrate()
    after = project.state()
    assert after.orders == before.orders - {"legacy"}
    assert not after.obsolete
    refusals = len(project.refused())
    project.migrate()
    assert project.state() == after
    assert len(project.refused()) == refusals


def test_texts_of_refusals_are_texts_to_approve(project: Project[Tool]) -> None:
    if not project.tool.resumes:
        pytest.skip("it leaves a migration half done, or has to be told that it is not; see below")
    project.migrated()
    project.tool.release(3)
    for _ in range(project.tool.messages):
        assert project.tool.migrate().returncode != 0
        project.approve(project.refused()[-1])
    project.migrate()
    assert not project.state().obsolete


def test_golang_migrate_stays_dirty_where_only_its_own_truncates_were_approved(
    database: Database, tmp_path: Path
) -> None:
    project = made(database, GolangMigrate, tmp_path)
    project.migrated()
    project.tool.release(3)
    own, _, _ = project.tool.text(3).partition("\n")
    project.approve(own)
    assert project.tool.migrate().returncode != 0
    assert project.state().applied == []
    assert project.state().obsolete
    project.approve(own)
    assert project.tool.force(2).returncode == 0
    assert project.state().applied == ["2"]


def test_sqlx_drops_an_index_outside_a_transaction_once_that_is_approved(database: Database, tmp_path: Path) -> None:
    project = made(database, Sqlx, tmp_path)
    project.migrated()
    text = "-- no-transaction\nDROP INDEX CONCURRENTLY orders_customer;\n"
    (tmp_path / "migrations/0003_index.sql").write_text(text)
    refused = project.tool.migrate()
    assert "DROP INDEX requires an approved DDLApproval" in refused.stdout
    assert project.state().applied == ["1", "2"]
    assert project.query("SELECT to_regclass('orders_customer')::text") == [("orders_customer",)]
    project.approve(text)
    project.migrate()
    assert project.state().applied == ["1", "2", "3"]
    assert project.query("SELECT to_regclass('orders_customer')::text") == [(None,)]
    project.migrate()


def test_prisma_without_a_transaction_leaves_half_a_migration_where_only_its_first_statement_was_approved(
    database: Database, tmp_path: Path
) -> None:
    project = made(database, Prisma, tmp_path)
    project.migrated()
    project.tool.release(3)
    assert project.tool.migrate().returncode != 0
    project.tool.recover(3)
    project.approve(project.refused()[-1])
    half = project.tool.migrate()
    assert "DROP TABLE requires an approved DDLApproval" in half.stderr
    assert "legacy" not in project.state().orders
    assert "P3009" in project.tool.migrate().stderr
    project.approve(project.refused()[-1])
    project.tool.sql("DROP TABLE obsolete")
    project.tool.resolve(3, "--applied")
    project.migrate()
    assert project.state().applied == ["1_create", "2_add", "3_drop"]
