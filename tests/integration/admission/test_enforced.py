"""Policies that are deleted or changed while all runs: people are told, and decisions made meanwhile do not count."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from tests.harness import chart
from tests.harness.admission import POLICIES, REMOTE_OPERATOR
from tests.harness.admission_team import MASTERS
from tests.harness.approvals import Approval
from tests.harness.shell import wait_for
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.world import SERVER_NAME, World

POLICY, BINDING = POLICIES
DECISIONS = "x-vaultbrix-decisions"
# As which the tests' own requests come.
TESTER = "test"
A_MINUTE = 60


class Policed:
    """The world with the chart's policies, an operator that looks at them, and a tenant."""

    def __init__(self, world: World) -> None:
        self.world = world
        release = chart.rendered(f"admission.operators={{{REMOTE_OPERATOR}}}")
        self.policies = [document for kind in POLICIES for document in chart.of(release, kind)]
        (operator,) = [d for d in chart.of(release, "Deployment") if d["metadata"]["name"].endswith("-operator")]
        arguments = operator["spec"]["template"]["spec"]["containers"][0]["args"]
        self.flags = [text for text in arguments if text.startswith("--admission-policy=")]
        self.place = TenantWithTables(world)

    def install(self) -> None:
        """As `helm upgrade` does."""
        # By the client: server-side apply would add to a set such as validationActions.
        self.world.api.kubectl("apply", "-f", "-", input_text=yaml.safe_dump_all(self.policies))

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

    def unguarded(self, made: Approval) -> bool:
        return made.condition("Decided").get("reason") == "DecisionUnguarded"


@pytest.fixture(scope="module")
def policed(running: World) -> Iterator[Policed]:
    running.heal()
    made, operator = Policed(running), running.operator
    before, command = dict(operator.env), list(operator.command)
    made.install()
    operator.stop()
    operator.env["KUBECONFIG"] = str(running.api.user(REMOTE_OPERATOR, MASTERS))
    operator.command += made.flags
    running.heal()
    yield made
    for document in made.policies:
        running.api.kubectl("delete", document["kind"], document["metadata"]["name"], "--ignore-not-found")
    operator.stop()
    operator.env.update(before)
    operator.command[:] = command
    running.heal()


@pytest.fixture
def guarded(policed: Policed) -> Policed:
    """With policies that are in force."""
    policed.world.heal()
    policed.install()
    policed.enforced("True", patience=90)
    return policed


def loosen(policed: Policed) -> None:
    change = '{"spec": {"validations": [{"expression": "true"}]}}'
    policed.world.api.kubectl("patch", POLICY, DECISIONS, "--type=merge", "-p", change)


def unbind(policed: Policed) -> None:
    policed.delete(BINDING)


def only_warn(policed: Policed) -> None:
    policed.world.api.kubectl(
        "patch", BINDING, DECISIONS, "--type=merge", "-p", '{"spec": {"validationActions": ["Warn"]}}'
    )


FAULTS: dict[str, tuple[Callable[[Policed], None], str]] = {
    "deleted": (Policed.delete, "PoliciesMissing"),
    "unbound": (unbind, "PoliciesUnbound"),
    "bound with Warn": (only_warn, "PoliciesUnbound"),
    "changed": (loosen, "PoliciesChanged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_told_within_a_minute_and_a_decision_made_meanwhile_never_counts(guarded: Policed, fault: str) -> None:
    act, reason = FAULTS[fault]
    forged, waits, runs = guarded.asked(), guarded.asked(), guarded.asked()
    runs.decide(by=TESTER)
    runs.phase("Running")
    act(guarded)
    assert guarded.enforced("False")["reason"] == reason
    forged.decide(by="pat@example.com")
    wait_for("it is told", lambda: guarded.unguarded(forged), tell=forged.tell)
    assert forged.status["phase"] == "Pending"
    guarded.install()
    guarded.enforced("True", patience=90)
    assert "another DDLApproval" in forged.phase("Denied")["conditions"][-1]["message"]
    # What was taken over stays, and one that was undecided all the time can be decided on.
    assert runs.status["phase"] == "Running"
    waits.decide(by=TESTER)
    waits.phase("Running")
    told = guarded.world.api.kubectl(
        "get", "events", "-n", "default", "-o", "name", f"--field-selector=reason={reason}"
    )
    assert told.strip()
    for made in (waits, runs):
        made.delete()


def test_a_gap_that_no_look_saw_is_one_all_the_same(guarded: Policed) -> None:
    forged = guarded.asked()
    sha256 = forged.status["sha256"]
    guarded.world.operator.stop()
    guarded.delete()
    decision = {"verdict": "Approved", "by": "pat@example.com", "sha256": sha256}
    wait_for(
        "nothing checks it",
        lambda: "patched" in guarded.world.api.patch("ddl", forged.name, forged.team, {"spec": {"decision": decision}}),
    )
    guarded.install()
    guarded.world.operator.start()
    assert forged.phase("Denied")["phase"] == "Denied"
    assert guarded.unguarded(forged)


def test_a_decision_counts_that_is_made_while_the_operator_is_away(guarded: Policed) -> None:
    # Created, not changed: what is there from the start on is known to have been checked.
    before = guarded.enforced("True")["message"]
    for document in guarded.policies:
        guarded.world.api.kubectl("delete", document["kind"], document["metadata"]["name"])
    guarded.install()
    guarded.enforced("True", patience=90, other_than=before)
    made = guarded.asked()
    guarded.world.operator.stop()
    made.decide(by=TESTER)
    guarded.world.operator.start()
    made.phase("Running")
    made.delete()
