"""After everything else: what was in a Secret at any time is nowhere else.

The last file by its name, so that logs, objects and volumes are those of all tests before it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import secret_scan
from tests.harness.demo import Demo
from tests.harness.kubectl import SYSTEM, Cluster
from tests.harness.secret_scan import Marks, Witness

STORE = "vaultbrix-audit-0"


@pytest.fixture(scope="module")
def marks(witness: Witness, cluster: Cluster) -> Marks:
    """All that was seen by now."""
    witness.stop()
    origins = set(witness.marks.origins.values())
    for known in ("vaultbrix-postgresql-admin/password", "vaultbrix-audit-owner/password", "signing.key", "tls.key"):
        assert any(origin.endswith(known) for origin in origins), (known, origins)
    # Rotated ones, too: the demo's key had another text before.
    assert list(witness.marks.origins.values()).count("team-acme/shop-api-key/key") > 1
    return witness.marks


def folders() -> list[Path]:
    """Where the node keeps logs and volumes: of components and Pods, emptied ones and those with data."""
    top = Path(os.environ["KUBECONFIG"]).parent
    return [top / "log", top / "kubelet/pods", top / "volumes"]


@pytest.fixture(scope="module")
def planted(cluster: Cluster, marks: Marks) -> Iterator[str]:
    """A Secret's value where it must not be, so that a search that finds nothing is known to search."""
    mark, origin = next((m, o) for m, o in marks.origins.items() if o.endswith("vaultbrix-postgresql-admin/password"))
    cluster.apply({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planted", "namespace": SYSTEM},
        "data": {"note": f"the password is {mark}."},
    })  # fmt: skip
    left = folders()[0] / "planted.log"
    left.write_text(f"...{mark}...")
    yield origin
    left.unlink()
    cluster.delete("configmap", "planted", SYSTEM)


def test_no_object_event_or_status_holds_a_secret(cluster: Cluster, marks: Marks, planted: str) -> None:
    assert secret_scan.in_objects(cluster, marks) == {f"configmaps: {planted}"}


def test_no_log_and_no_volume_holds_a_secret(marks: Marks, planted: str) -> None:
    assert secret_scan.in_files(marks, *folders()) == {f"{folders()[0] / 'planted.log'}: {planted}"}


def test_no_release_record_and_nothing_that_the_demo_printed_holds_a_secret(
    witness: Witness, marks: Marks, demo: Demo
) -> None:
    assert witness.releases
    assert set().union(*(marks.within(release.encode()) for release in witness.releases)) == set()
    assert marks.within(demo.said.encode()) == set()


def test_no_command_line_and_no_environment_holds_a_secret(witness: Witness, marks: Marks) -> None:
    assert any(b"vaultbrix" in line for line in witness.command_lines)
    assert set().union(*map(marks.within, witness.command_lines)) == set()
    assert secret_scan.in_processes(marks) == set()


def test_no_process_of_ours_can_leave_a_core_file(marks: Marks) -> None:
    assert secret_scan.core_limits() == set()
    assert secret_scan.core_files(*folders()) == []


@pytest.mark.parametrize("pod", ["vaultbrix-postgresql-0", STORE])
def test_neither_the_tenants_data_nor_the_record_holds_a_secret(cluster: Cluster, marks: Marks, pod: str) -> None:
    dump = ["pg_dumpall", "-h", "/run/postgresql", "-p", "5433" if pod != STORE else "5432", "-U", "postgres", "-w"]
    said = cluster.kubectl("-n", SYSTEM, "exec", pod, "-c", "postgresql", "--", *dump)
    assert "PostgreSQL database cluster dump complete" in said
    assert marks.within(said.encode()) == set()
