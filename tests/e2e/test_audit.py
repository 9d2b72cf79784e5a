"""The record is asked with a kubeconfig alone: the store's port is forwarded through the API server and the kubelet."""

import json
import os

import pytest
from tests.harness.processes import VAULTBRIX
from tests.harness.shell import run


@pytest.mark.usefixtures("cluster")
def test_record_is_asked_with_a_kubeconfig_alone() -> None:
    assert not [name for name in os.environ if name.startswith("PG")]
    rows = run(*VAULTBRIX, "audit", "query", "--tenant", "acme", "--limit", "5", "--output", "json").stdout.splitlines()
    assert len(rows) == 5
    assert {json.loads(row)["tenant"] for row in rows} == {"team-acme/acme"}
