"""Approved DDL by real Jobs: once, as approved, or not at all, and the status says which."""

from collections.abc import Iterator

import pytest
from tests.harness.kubectl import JOBS, TEAM, Cluster
from tests.harness.shell import wait_for
from tests.harness.world import approval


@pytest.fixture
def table(cluster: Cluster) -> Iterator[str]:
    """A table of the tenant with one row."""
    cluster.sql("CREATE TABLE tenant_acme.goods(id int); ALTER TABLE tenant_acme.goods OWNER TO tenant_acme")
    cluster.sql("INSERT INTO tenant_acme.goods VALUES (1)")
    yield "tenant_acme.goods"
    cluster.sql("DROP TABLE IF EXISTS tenant_acme.goods")


def submit(cluster: Cluster, name: str, sql: str) -> None:
    cluster.delete("ddl", name)
    cluster.apply(approval(TEAM, name, "acme", sql))


def exists(cluster: Cluster, table: str) -> bool:
    return cluster.sql(f"SELECT to_regclass('{table}') IS NOT NULL") == "t"


def nothing_left(cluster: Cluster) -> bool:
    """Whether no one-time login and no Secret of a Job is there any more."""
    logins = cluster.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'vaultbrix\\_d\\_%'")
    secrets = [s for s in cluster.items("secrets", JOBS) if s["metadata"]["name"].startswith("ddl-")]
    return logins == "0" and not secrets


def test_a_text_that_fails_changes_nothing_and_says_where(cluster: Cluster, table: str) -> None:
    submit(cluster, "fails", "ALTER TABLE goods ADD COLUMN name text; DROP TABLE no_such_table;")
    cluster.decide("fails")
    status = cluster.phase("fails", "Failed", "Succeeded")
    assert status["phase"] == "Failed"
    assert (status["error"]["sqlstate"], status["error"]["statement"]) == ("42P01", 2)
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'tenant_acme.goods'::regclass AND attname = 'name'"
    assert cluster.sql(columns) == "0"
    wait_for("login and Secret are gone", lambda: nothing_left(cluster))


def test_what_another_admin_denied_does_not_run(cluster: Cluster, table: str) -> None:
    submit(cluster, "denied", "DROP TABLE goods;")
    cluster.decide("denied", verdict="Denied")
    status = cluster.phase("denied", "Denied", "Succeeded")
    assert status["phase"] == "Denied"
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert ready["reason"] == "Denied"
    assert exists(cluster, table)


@pytest.mark.parametrize(
    ("name", "decision", "refusal"),
    [
        ("self-approved", {"by": "jane@example.com"}, "spec.decision is by jane@example.com, who asked"),
        ("outdated", {"sha256": "0" * 64}, "spec.decision.sha256 is of something else"),
    ],
)
def test_a_decision_that_would_not_count_is_refused_and_another_one_still_possible(
    cluster: Cluster, table: str, name: str, decision: dict[str, str], refusal: str
) -> None:
    submit(cluster, name, "DROP TABLE goods;")
    assert refusal in cluster.decide(name, **decision)
    assert "decision" not in cluster.get("ddl", name)["spec"]
    assert exists(cluster, table)
    cluster.decide(name, verdict="Denied")
    assert cluster.phase(name, "Denied", "Succeeded")["phase"] == "Denied"


def test_a_text_that_does_not_parse_is_invalid_and_says_where(cluster: Cluster) -> None:
    submit(cluster, "typo", "ALTER TABLE goods\n  DROP COLUM id;")
    status = cluster.phase("typo", "Invalid")
    parsed = next(c for c in status["conditions"] if c["type"] == "Parsed")
    assert parsed["reason"] == "SyntaxError"
    assert "line 2" in parsed["message"]


def test_a_job_whose_pod_is_killed_in_the_middle_runs_once_all_the_same(cluster: Cluster, table: str) -> None:
    submit(cluster, "killed", "SELECT pg_sleep(6); ALTER TABLE goods ADD COLUMN once int;")
    cluster.decide("killed")
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND usename ^@ 'vaultbrix_d_'"
    wait_for("the text runs", lambda: cluster.sql(sleeping) == "1", patience=60)
    uid = cluster.get("ddl", "killed")["metadata"]["uid"]
    pods = f"batch.kubernetes.io/job-name=ddl-{uid}"
    cluster.kubectl("-n", JOBS, "delete", "pod", "-l", pods, "--grace-period=0", "--force", check=False)
    assert cluster.phase("killed", "Succeeded", "Failed")["phase"] == "Succeeded"
    assert cluster.sql(f"SELECT count(*) FROM vaultbrix.ddl_run WHERE pass_id = '{uid}'") == "1"
    wait_for("login and Secret are gone", lambda: nothing_left(cluster))


def test_an_approval_that_is_deleted_while_it_runs_is_taken_back(cluster: Cluster, table: str) -> None:
    submit(cluster, "withdrawn", "SELECT pg_sleep(30); DROP TABLE goods;")
    cluster.decide("withdrawn")
    cluster.phase("withdrawn", "Running")
    cluster.delete("ddl", "withdrawn")
    assert exists(cluster, table)
    wait_for("login and Secret are gone", lambda: nothing_left(cluster))
