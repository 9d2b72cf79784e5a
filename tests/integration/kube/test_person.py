"""A person's way to the cluster: names that are wrong by little, rights that are missing, objects that change."""

import pytest
from tests.harness.builders import rule, server, tenant
from tests.harness.command_line import READ, may
from tests.harness.team import Team

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.conditions import Reason
from vaultbrix.api.tenant import Tenant
from vaultbrix.kube import person
from vaultbrix.kube.person import Missing, Unreadable
from vaultbrix.runtime.errors import Blocked

# Longer than the model can hold, and no more than the schema of the API server lets in.
LONGER_THAN_ANY = {"ttl": "999999h"}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PAUSE_SECONDS", 0.02)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("acmee", "Tenant acmee not found in namespace {team}; did you mean acme?"),
        ("other", "there is one in namespace {elsewhere}: add -n {elsewhere}"),
        ("nobody", "name its namespace with -n, and see: kubectl get tenants -A"),
    ],
)
def test_a_name_that_is_wrong_by_little_is_found(team: Team, name: str, says: str) -> None:
    team.put(tenant(), tenant("other", metadata={"namespace": team.elsewhere}))
    with pytest.raises(Missing) as missing:
        team.ask(lambda client: client.find(Tenant, name))
    assert says.format(team=team.namespace, elsewhere=team.elsewhere) in str(missing.value)


def test_a_hint_that_may_not_be_read_is_left_out(team: Team) -> None:
    team.put(tenant())
    with pytest.raises(Missing, match="name its namespace"):
        team.ask(lambda client: client.find(Tenant, "acmee"), person=team.person(may(["get"], "tenants")))


def test_an_object_that_cannot_be_read_is_reported_and_left_out_of_a_list(team: Team) -> None:
    team.put(rule("good"), rule("bad"))
    team.change(rule("bad"), {"spec": LONGER_THAN_ANY})
    problems: list[Unreadable] = []
    rules = team.ask(lambda client: client.find_all(AccessRule, team.namespace), report_unreadable=problems.append)
    assert [r.metadata.name for r in rules] == ["good"]
    assert [str(p) for p in problems] == [
        f"AccessRule {team.namespace}/bad cannot be read (written by a newer version?): spec.ttl"
    ]
    with pytest.raises(Unreadable, match=f"{team.namespace}/bad"):
        team.ask(lambda client: client.find(AccessRule, "bad"))


def test_what_may_not_be_listed_is_empty_only_where_that_is_asked_for(team: Team) -> None:
    team.put(rule())
    eve = team.person(may(["get"], "accessrules"))
    assert team.ask(lambda client: client.find_permitted(AccessRule, team.namespace), person=eve) == []
    with pytest.raises(Blocked) as refused:
        team.ask(lambda client: client.find_all(AccessRule, team.namespace), person=eve)
    assert refused.value.reason is Reason.FORBIDDEN


def test_a_server_is_there_missing_or_hidden(team: Team) -> None:
    assert team.ask(lambda client: client.find_server(tenant())) == (None, False)
    team.put(server())
    there, hidden = team.ask(lambda client: client.find_server(tenant()))
    assert there is not None
    assert (there.metadata.name, hidden) == ("main", False)
    eve = team.person(may(READ, "tenants"))
    assert team.ask(lambda client: client.find_server(tenant()), person=eve) == (None, True)


def test_an_object_is_followed_until_it_is_done_and_every_state_is_reported(team: Team) -> None:
    team.put(rule())
    coming = iter(["Pending", "Open"])
    states: list[AccessRule] = []

    def report(state: AccessRule) -> None:
        states.append(state)
        if (phase := next(coming, None)) is not None:
            team.write_status(state, {"phase": phase})

    state, done = team.ask(
        lambda client: client.wait_until(team.read(rule()), lambda r: r.status.phase == "Open", 60, report)
    )
    assert done
    assert [r.status.phase for r in states] == [None, "Pending", "Open"]
    assert state.resource is states[-1]
    assert state.raw["status"]["phase"] == "Open"


def test_waiting_ends_with_its_time_or_with_the_object(team: Team) -> None:
    team.put(rule())
    known = team.read(rule())
    _, done = team.ask(lambda client: client.wait_until(known, lambda r: False, 0))
    assert not done
    team.delete(known)
    with pytest.raises(Missing, match="AccessRule jane was deleted meanwhile"):
        team.ask(lambda client: client.wait_until(known, lambda r: False, 60))
    team.put(rule())
    with pytest.raises(Missing, match="deleted meanwhile"):
        team.ask(lambda client: client.reread(known))
