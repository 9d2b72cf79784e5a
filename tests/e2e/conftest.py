"""The chart on a real cluster, brought there by the demo itself: what users see is what is tested."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.harness.demo import Demo
from tests.harness.kubectl import Cluster
from tests.harness.secret_scan import Witness
from tests.harness.shell import TOP, run


@pytest.fixture(scope="session", autouse=True)
def environment() -> None:
    """KUBECONFIG and PATH of hack/cluster, unless a cluster is named already."""
    if "KUBECONFIG" not in os.environ:
        os.environ["KUBECONFIG"] = run(TOP / "hack/cluster/kubeconfig").stdout.strip()
        os.environ["PATH"] = run(TOP / "hack/cluster/path").stdout.strip() + ":" + os.environ["PATH"]


@pytest.fixture(scope="session")
def witness(environment: None) -> Iterator[Witness]:
    """It knows every secret that there was, from before the first one on."""
    made = Witness()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def demo(witness: Witness) -> Demo:
    """One run of the demo; what it leaves is the release that the other tests look at."""
    done = subprocess.run(
        [sys.executable, TOP / "hack/demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
    )
    return Demo(done.returncode, done.stdout)


@pytest.fixture(scope="session")
def cluster(demo: Demo) -> Cluster:
    """The cluster with the release in it."""
    assert demo.code == 0, demo.said
    return Cluster()
