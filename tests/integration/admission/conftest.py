"""One API server with the policies of the chart for all tests of this folder, and a namespace for each."""

import itertools
from collections.abc import Iterator

import pytest
from tests.harness.admission import PolicedCluster
from tests.harness.admission_team import PolicedTeam
from tests.harness.slot import folder

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def cluster() -> Iterator[PolicedCluster]:
    """From the first test that asks for it to the last of this folder."""
    started = PolicedCluster(folder() / "api")
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="package")
def team(cluster: PolicedCluster) -> PolicedTeam:
    """The people and processes, in a namespace of their own."""
    return PolicedTeam(cluster, f"team-{next(_numbers)}")
