"""Policies that are deleted or changed while all runs: people are told, and decisions made meanwhile do not count."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.harness.direct_access import held_session
from tests.harness.policed import BINDING, DECISIONS, POLICY, TESTER, Policed, policed_world
from tests.harness.shell import wait_for
from tests.harness.world import World


@pytest.fixture(scope="module")
def policed(running: World) -> Iterator[Policed]:
    with policed_world(running) as made:
        yield made


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


@pytest.mark.parametrize(
    "fault",
    [name if name in ("deleted", "changed") else pytest.param(name, marks=pytest.mark.soak) for name in FAULTS],
)
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


@pytest.fixture
def required(guarded: Policed) -> Iterator[Policed]:
    """With a server on which every rule wants an approval."""
    guarded.want("Required")
    yield guarded
    if not guarded.world.agent.running:
        guarded.world.agent.start()
    guarded.want("None")


class AskedRule:
    """A rule for one address that waits for a decision."""

    def __init__(self, policed: Policed, address: str) -> None:
        self.world, self.team, self.address = policed.world, policed.place.team, address
        self.tenant = policed.place.tenant
        self.name = self.world.rule(self.team, self.tenant, f"{address}/32")
        self.said("ApprovalNeeded")

    def said(self, reason: str) -> dict[str, Any]:
        self.world.api.await_condition("accessrule", self.name, self.team, status="False", reason=reason)
        return self.world.api.condition("accessrule", self.name, "Accepted", self.team)

    def decide(self, by: str = TESTER) -> None:
        sha256 = self.world.api.get("accessrule", self.name, self.team)["status"]["sha256"]
        change = {"spec": {"decision": {"verdict": "Approved", "by": by, "sha256": sha256}}}
        wait_for(
            "it is written",
            lambda: "patched" in self.world.api.patch("accessrule", self.name, self.team, change),
        )

    def opened(self) -> None:
        self.world.api.await_condition("accessrule", self.name, self.team)
        assert self.works()

    def works(self) -> bool:
        return self.world.psql(self.address, self.team, self.tenant, "SELECT 1").works()

    def closed_in_kernel_and_hba(self) -> bool:
        in_hba = self.address in self.world.postgres.hba_file.read_text()
        return not in_hba and f"{self.address}/32" not in self.world.let_in()


@pytest.mark.parametrize("fault", ["deleted", "only a gap"])
def test_access_that_was_approved_meanwhile_never_opens_and_what_was_open_stays(required: Policed, fault: str) -> None:
    policed, world = required, required.world
    first = {"deleted": 190, "only a gap": 200}[fault]
    before, waits, forged = (AskedRule(policed, f"203.0.113.{first + n}") for n in range(3))
    before.decide()
    before.opened()
    session = held_session(world, before.address, before.team, before.tenant, "approved before")
    known = policed.enforced("True")["message"]
    policed.delete()
    if fault == "deleted":
        policed.enforced("False")
    forged.decide(by="pat@example.com")
    if fault == "deleted":
        forged.said("DecisionUnguarded")
    policed.install()
    policed.enforced("True", patience=90, other_than=known)
    wait_for("it is final", lambda: "another AccessRule" in forged.said("DecisionUnguarded")["message"])
    assert forged.closed_in_kernel_and_hba()
    assert session.running
    waits.decide()
    waits.opened()
    # By what it has kept, whatever the policies were meanwhile.
    world.agent.kill()
    world.agent.start()
    world.heal()
    assert before.works()
    assert waits.works()
    assert forged.closed_in_kernel_and_hba()
    session.kill()


def test_an_agent_goes_by_its_own_look_and_says_why_it_does_not_open(required: Policed) -> None:
    """An operator that takes every decision for good opens nothing by itself."""
    policed, operator = required, required.world.operator
    asked = AskedRule(policed, "203.0.113.193")
    operator.stop()
    operator.command.remove(policed.flag)
    operator.start()
    try:
        policed.delete()
        asked.decide(by="pat@example.com")
        policed.world.api.await_condition(
            "accessrule", asked.name, asked.team, type_="Enforced", status="False", reason="DecisionUnguarded"
        )
        assert asked.closed_in_kernel_and_hba()
        report = policed.world.api.get("accessrule", asked.name, asked.team)["status"]["agents"][0]
        assert report["error"].startswith("approval: the decision is not taken over now")
    finally:
        operator.stop()
        operator.command.append(policed.flag)
        operator.start()
