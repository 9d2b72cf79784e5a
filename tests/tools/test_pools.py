"""Pools of real drivers: sessions that are reset stay the tenant's, and their TLS knows the server."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.harness.database import Database
from tests.harness.migration_project import client_of
from tests.harness.pools import POOLS, Pool

from vaultbrix.install import certificates


@pytest.fixture(params=POOLS, ids=lambda kind: kind.name)
def pool(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Pool:
    """A program with a pool, and a tenant of its own."""
    made: Pool = client_of(database, request.param, tmp_path)
    return made


def test_session_that_a_pool_resets_is_the_tenants_again_and_held_by_the_gate(pool: Pool) -> None:
    done = pool.pooled()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "rows": 1000,
        "schema": pool.login.role,
        "lock_timeout": "5s",
        "encrypted": True,
        "temporary": False,
        "refused": "VBX01",
    }


def test_verify_full_refuses_a_server_of_another_authority_and_one_of_another_name(pool: Pool, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.crt"
    stranger.write_text(certificates.authority("stranger", datetime.now(UTC)).certificate)
    right = pool.login
    for wrong in (replace(right, authority=stranger), replace(right, host="127.0.0.1")):
        pool.login = wrong
        done = pool.pooled()
        assert done.returncode != 0
        assert "certif" in (done.stdout + done.stderr).lower()
