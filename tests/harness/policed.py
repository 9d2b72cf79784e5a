"""The world under the chart's admission policies, with an operator and an agent that look whether they are in force."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from tests.harness import chart
from tests.harness.admission import POLICIES, POLICY_LIST, REMOTE_OPERATOR
from tests.harness.admission_team import MASTERS
from tests.harness.approvals import Approval
from tests.harness.shell import wait_for
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.world import SERVER_NAME, World

POLICY, BINDING = POLICIES
DECISIONS = "x-vaultbrix-decisions"
# As which the agent comes: it may do all, so that only policies stand in its way.
REMOTE_AGENT = "vaultbrix:agent:agent-1"
# As which the tests' own requests come.
TESTER = "test"
A_MINUTE = 60


class Policed:
    """The world with the chart's policies, an operator that looks at them, and a tenant."""

    def __init__(self, world: World) -> None:
        self.world = world
        release = chart.rendered(f"admission.operators={{{REMOTE_OPERATOR}}}")
        self.policies = [document for kind in POLICIES for document in chart.of(release, kind)]
        (self.names,) = [d for d in chart.of(release, "ConfigMap") if d["metadata"]["name"] == POLICY_LIST]
        self.flag = f"--admission-policies={self.names['metadata']['namespace']}/{POLICY_LIST}"
        self.place = TenantWithTables(world)

    def install(self) -> None:
        """As `helm upgrade` does."""
        # By the client: server-side apply would add to a set such as validationActions.
        self.world.api.kubectl("apply", "-f", "-", input_text=yaml.safe_dump_all([self.names, *self.policies]))

    def delete(self, kind: str = POLICY, name: str = DECISIONS) -> None:
        self.world.api.kubectl("delete", kind, name)

    def enforced(self, status: str, *, patience: float = A_MINUTE, other_than: str = "") -> dict[str, Any]:
        """Wait for the condition to say so, within a minute, and with another message than that."""

        def there() -> dict[str, Any] | None:
            found = self.world.api.condition("pgs", SERVER_NAME, "AdmissionEnforced", "")
            return found if found.get("status") == status and found["message"] != other_than else None

        return wait_for(f"AdmissionEnforced is {status}", there, patience=patience, pause=0.2)

    def asked(self) -> Approval:
        """A request that waits for a decision."""
        made = self.place.submit("DROP TABLE IF EXISTS victim")
        made.rehearsed()
        return made

    def want(self, approval: str) -> None:
        """Whether the server wants an approval of every rule."""
        self.world.api.patch("pgs", SERVER_NAME, "default", {"spec": {"accessApproval": approval}})

    def unguarded(self, made: Approval) -> bool:
        return made.condition("Decided").get("reason") == "DecisionUnguarded"

    def remove(self) -> None:
        """As an uninstallation does."""
        for document in (self.names, *self.policies):
            name = document["metadata"]["name"]
            self.world.api.kubectl("delete", document["kind"], name, "-n", "default", "--ignore-not-found")


@contextmanager
def policed_world(world: World) -> Iterator[Policed]:
    """With the policies installed, until the end."""
    world.heal()
    made, deciders = Policed(world), (world.operator, world.agent)
    before = [(dict(one.env), list(one.command)) for one in deciders]
    made.install()
    for one, user in zip(deciders, (REMOTE_OPERATOR, REMOTE_AGENT), strict=True):
        one.stop()
        one.env["KUBECONFIG"] = str(world.api.user(user, MASTERS))
        one.command.append(made.flag)
    world.heal()
    try:
        yield made
    finally:
        made.remove()
        for one, (environment, command) in zip(deciders, before, strict=True):
            one.stop()
            one.env.update(environment)
            one.command[:] = command
        world.heal()
