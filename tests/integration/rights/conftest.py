"""One API server with the rights that the chart gives, for the tests of this folder that need no operator."""

from collections.abc import Iterator

import pytest
from tests.harness import chart
from tests.harness.admission import PolicedCluster, agent_rights, bind, install
from tests.harness.rights import JOBS, MONITORING, NAMED, NAMESPACES, PEOPLE, RELEASE, TEAM, USERS
from tests.harness.slot import folder

VALUES = (
    f"rbac.tenantNamespaces={{{TEAM}}}",
    f"rbac.serverSecrets={{{NAMED}}}",
    f"dataAPI.userSecretNames={{{USERS}}}",
    "audit.servers={other}",
    f"postgresql.trusted.pods[0].namespace={MONITORING}",
    "postgresql.trusted.pods[0].selector.app=exporter",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[PolicedCluster]:
    """With an agent of server ``other`` on a machine of its own, and a person for each role of users, in TEAM."""
    assert chart.available()
    started = PolicedCluster(folder() / "rights", namespace=RELEASE, values=VALUES, ports=(16386, 12387))
    try:
        started.start(*(name for name in NAMESPACES if name not in ("", RELEASE, JOBS)))
        install(started.api, agent_rights("db2", of="other", release=RELEASE))
        for role, who in PEOPLE.items():
            bind(started.api, who.name, f"x-vaultbrix-{role}", TEAM)
        yield started
    finally:
        started.stop()
