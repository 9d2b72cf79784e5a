"""What a person may ask for about direct access, without a terminal."""

import asyncio
import itertools
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from tests.harness.builders import HOUR, Raw, approval, rule, server, tenant, true
from tests.harness.command_line import READ, may
from tests.harness.team import Team

from vaultbrix.access.actions import (
    AllowOptions,
    Answer,
    ExplainOptions,
    ExtendOptions,
    Report,
    Revocation,
    RevokeOptions,
    RevokeStep,
    allow,
    explain_address,
    extend,
    revoke,
)
from vaultbrix.access.decisions import rule_login
from vaultbrix.access.progress import Progress
from vaultbrix.api.accessrule import AccessRule, RuleLogin
from vaultbrix.api.meta import Resource, rfc3339
from vaultbrix.kube import person
from vaultbrix.kube.person import Missing, NameTaken, PersonClient
from vaultbrix.runtime.usage import Misused, Refused

READY = {**true("Ready")[0], "observedGeneration": 2}
OPEN: Raw = {"phase": "Open", "conditions": [READY]}
PENDING: Raw = {"phase": "Pending"}
REJECTED: Raw = {"phase": "Rejected", "conditions": [{**READY, "status": "False", "reason": "PrefixTooWide"}]}
ME = ip_address("198.51.100.9")


def request(**changes: Any) -> AllowOptions:
    given = {"tenant": "acme", "cidrs": ("203.0.113.7",), "reason": "CHG-1", "lasting": "2h", "name": "jane", **changes}
    return AllowOptions(**given)


def ended(name: str) -> AccessRule:
    at = rfc3339(datetime.now(UTC) - HOUR)
    return rule(name, status={"phase": "Expired", "closedAt": at, "closedReason": "Expired"})


def answered(team: Team, *statuses: Raw, states: list[AccessRule] | None = None) -> Report:
    """What a person's waiting is told, and the statuses that operator and agents write after each of its looks."""
    coming = iter(statuses)

    def report(state: AccessRule) -> None:
        if states is not None:
            states.append(state)
        if (status := next(coming, None)) is not None:
            team.write_status(state, status)

    return report


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PAUSE_SECONDS", 0.02)


def test_access_is_asked_for_and_waited_for(team: Team) -> None:
    team.put(tenant(), server())
    states: list[AccessRule] = []
    report = answered(team, PENDING, OPEN, states=states)
    allowed = team.ask(lambda client: allow(client, request(), report))
    assert (allowed.progress, allowed.in_force) == (Progress.READY, True)
    assert [r.status.phase for r in states] == [None, "Pending", "Open"]
    assert list(team.versions(AccessRule)) == ["jane"]
    assert allowed.rule.raw["spec"] == {
        "tenantRef": {"name": "acme"}, "cidrs": ["203.0.113.7/32"], "reason": "CHG-1",
        "requestedBy": "jane@example.com", "login": "Tenant", "ttl": "2h", "revoked": False,
    }  # fmt: skip
    assert allowed.connection.server is not None
    assert (allowed.connection.role, allowed.connection.secret) == ("tenant_acme", "acme-db")
    assert allowed.rule.manifest["metadata"]["name"] == "jane"


def test_a_login_of_the_rules_own_is_where_to_connect(team: Team) -> None:
    team.put(tenant(), server())
    report = answered(team, OPEN)
    allowed = team.ask(lambda client: allow(client, request(login=RuleLogin.PER_RULE), report))
    uid = team.read(rule()).metadata.uid
    assert uid
    assert allowed.connection.role == rule_login("tenant_acme", uid)
    assert allowed.connection.secret == "jane-access"


@pytest.mark.parametrize(
    ("changes", "progress"),
    [({}, Progress.NEVER), ({"timeout": "1s"}, Progress.WAITING), ({"wait": False}, None)],
    ids=["never", "late", "not waited"],
)
def test_a_rule_that_is_not_in_force_is_told_from_one_that_is(
    team: Team, changes: Raw, progress: Progress | None
) -> None:
    team.put(tenant(), server())
    report = answered(team, *([REJECTED] if progress is Progress.NEVER else []))
    allowed = team.ask(lambda client: allow(client, request(**changes), report))
    assert (allowed.progress, allowed.in_force) == (progress, False)
    assert list(team.versions(AccessRule)) == ["jane"]


def test_a_dry_run_creates_nothing_and_waits_for_nothing(team: Team) -> None:
    team.put(tenant(), server())
    allowed = team.ask(lambda client: allow(client, request(dry_run=True)))
    assert allowed.progress is None
    assert allowed.rule.resource.spec.cidrs == ["203.0.113.7/32"]
    assert team.versions(AccessRule) == {}


@pytest.mark.parametrize(
    ("objects", "changes", "says"),
    [
        ([server()], {}, "Tenant acme not found"),
        ([tenant(), server()], {"cidrs": ("203.0.0.0/16",)}, "wider than /24"),
        ([tenant(), server()], {"lasting": "169h"}, "may last 168h at most"),
        ([tenant(), server(limits={"maxRulesPerTenant": 1}), rule("other")], {}, "limit of PostgresServer main"),
        ([tenant()], {"cidrs": ("me",)}, "--cidr me: there is no PostgresServer main"),
        ([tenant(), server()], {"cidrs": ("me",)}, "does not tell callers their address"),
    ],
)
def test_what_the_cluster_does_not_allow_creates_nothing(
    team: Team, objects: list[Resource], changes: Raw, says: str
) -> None:
    team.put(*objects)
    before = team.versions(AccessRule)
    with pytest.raises(Refused, match=says):
        team.ask(lambda client: allow(client, request(**changes)))
    assert team.versions(AccessRule) == before


def test_me_is_the_address_of_the_person_that_another_program_acts_for(team: Team) -> None:
    team.put(tenant(), server())
    options = request(cidrs=("203.0.113.7", "me"), own_address=ME, wait=False)
    team.ask(lambda client: allow(client, options))
    assert team.read(rule()).spec.cidrs == ["203.0.113.7/32", "198.51.100.9/32"]


def test_a_name_that_is_taken_is_refused(team: Team) -> None:
    team.put(tenant(), server(), rule())
    says = f"--name jane: namespace {team.namespace} has an AccessRule of that name, and an ended one"
    with pytest.raises(NameTaken, match=says):
        team.ask(lambda client: allow(client, request()))


def test_limits_that_may_not_be_read_are_the_operators_to_enforce(team: Team) -> None:
    team.put(tenant(), server())
    eve = team.person(may(READ, "tenants", "accessrules"), may(["create"], "accessrules"))
    options = request(cidrs=("203.0.0.0/16",), wait=False)
    allowed = team.ask(lambda client: allow(client, options), person=eve)
    assert allowed.connection.server is None
    assert list(team.versions(AccessRule)) == ["jane"]


def test_a_rule_that_is_deleted_while_it_is_waited_for_ends_the_waiting(team: Team) -> None:
    team.put(tenant(), server())
    states: list[AccessRule] = []

    def report(state: AccessRule) -> None:
        states.append(state)
        if len(states) == 1:
            team.write_status(state, PENDING)
        else:
            team.delete(state)

    with pytest.raises(Missing, match="was deleted meanwhile"):
        team.ask(lambda client: allow(client, request(), report))
    assert [r.status.phase for r in states] == [None, "Pending"]


AGENT = {"name": "agent-1", "generation": 2, "hba": False, "kernel": False, "at": rfc3339(datetime.now(UTC))}
CLOSED: Raw = {"phase": "Revoked", "agents": [AGENT]}


def test_rules_are_revoked_first_and_waited_for_then(team: Team) -> None:
    team.put(rule("a"), ended("old"), rule("b", status={"openedAt": rfc3339(datetime.now(UTC))}))
    old = team.versions(AccessRule)["old"]

    async def revoked(client: PersonClient) -> list[tuple[str, RevokeStep]]:
        steps = []
        async for done in revoke(client, RevokeOptions(names=("a", "old", "a", "b"), timeout="1s")):
            steps.append((done.rule.metadata.name, done.step))
            if steps[-1] == ("b", RevokeStep.REVOKED):
                team.write_status(rule("a"), CLOSED)
        return steps

    assert team.ask(revoked) == [
        ("a", RevokeStep.REVOKED),
        ("old", RevokeStep.ENDED_BEFORE),
        ("b", RevokeStep.REVOKED),
        ("a", RevokeStep.CLOSED),
        ("b", RevokeStep.NOT_CLOSED),
    ]
    for name in ("a", "b"):
        assert team.read(rule(name)).spec == rule(name, revoked=True).spec
    assert team.versions(AccessRule)["old"] == old


def test_closing_is_waited_for(team: Team) -> None:
    team.put(rule("a", status={"openedAt": rfc3339(datetime.now(UTC))}))

    async def close_later() -> None:
        await asyncio.sleep(0.5)
        team.write_status(rule("a"), CLOSED)

    async def revoked(client: PersonClient) -> list[RevokeStep]:
        steps = []
        async for done in revoke(client, RevokeOptions(names=("a",))):
            steps.append(done.step)
            if done.step is RevokeStep.REVOKED:
                closing = asyncio.create_task(close_later())
        await closing
        return steps

    assert team.ask(revoked) == [RevokeStep.REVOKED, RevokeStep.CLOSED]


async def all_steps(client: PersonClient, options: RevokeOptions) -> list[Revocation]:
    return [step async for step in revoke(client, options)]


def test_nothing_is_waited_for_unless_it_is_asked_for(team: Team) -> None:
    team.put(rule("a"))
    steps = team.ask(lambda client: all_steps(client, RevokeOptions(names=("a",), wait=False)))
    assert [s.step for s in steps] == [RevokeStep.REVOKED]


def test_no_rule_is_revoked_unless_all_exist(team: Team) -> None:
    team.put(rule("a"))
    before = team.versions(AccessRule)
    with pytest.raises(Missing, match="AccessRule b not found"):
        team.ask(lambda client: all_steps(client, RevokeOptions(names=("a", "b"))))
    assert team.versions(AccessRule) == before


def test_a_rule_is_extended_from_the_state_that_was_read(team: Team) -> None:
    """Of two who extend at once, each adds to what the other has made of it."""
    team.put(tenant(), server(), rule())
    others = [
        lambda: team.write_status(rule(), PENDING),
        lambda: team.change(rule(), {"spec": {"ttl": "5h"}}),
    ]
    states: list[AccessRule] = []
    report = answered(team, {**OPEN, "conditions": [{**READY, "observedGeneration": 3}]}, states=states)
    options = ExtendOptions(name="jane", lasting="1h")
    extended = team.ask(lambda client: extend(client, options, report), others=others)
    assert extended.progress is Progress.READY
    assert [r.status.phase for r in states] == ["Pending", "Open"]
    assert team.read(rule()).spec == extended.rule.spec == rule(ttl="6h").spec


def test_an_extension_that_always_collides_is_given_up(team: Team) -> None:
    team.put(tenant(), server(), rule())
    numbers = itertools.count()

    def relabel() -> None:
        team.change(rule(), {"metadata": {"labels": {"number": str(next(numbers))}}})

    options, others = ExtendOptions(name="jane", lasting="1h"), itertools.repeat(relabel)
    with pytest.raises(Refused, match="changes all the time"):
        team.ask(lambda client: extend(client, options), others=others)
    assert team.read(rule()).spec == rule().spec


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (ExtendOptions(name="jane"), Misused, "exactly one of --for"),
        (ExtendOptions(name="jane", lasting="1h", until="2099-01-01T00:00:00Z"), Misused, "exactly one of --for"),
        (ExtendOptions(name="jane", lasting="1h", timeout="0s"), Misused, "--timeout 0s"),
        (ExtendOptions(name="jane", lasting="999h"), Refused, "maxTTL"),
        (ExtendOptions(name="old", lasting="1h"), Refused, "never opens again"),
        (ExtendOptions(name="none", lasting="1h"), Refused, "AccessRule none not found"),
    ],
)
def test_an_extension_that_cannot_be_writes_nothing(
    team: Team, options: ExtendOptions, error: type[Exception], says: str
) -> None:
    team.put(tenant(), server(), rule(), ended("old"))
    before = team.versions(AccessRule)
    with pytest.raises(error, match=says):
        team.ask(lambda client: extend(client, options))
    assert team.versions(AccessRule) == before


def asked(team: Team, *, person: Path | None = None, **options: Any) -> Answer:
    whole = ExplainOptions(**{"address": "203.0.113.7", "tenant": "acme", **options})
    return team.ask(lambda client: explain_address(client, whole), person=person)


def test_an_address_is_explained_with_what_would_let_it_in(team: Team) -> None:
    team.put(tenant(), server(), approval())
    answer = asked(team)
    assert not answer.explanation.admitted
    assert answer.explanation.obstacles
    assert answer.server is not None
    answer = asked(team, person=team.person(may(READ, "tenants", "accessrules")))
    assert answer.server is None
    assert answer.next_step == f"vaultbrix allow acme -n {team.namespace} --cidr 203.0.113.7 --for 1h --reason ..."
    assert any("you may not read PostgresServers" in note for note in answer.explanation.notes)


def test_the_address_of_the_person_is_explained_where_it_is_known(team: Team) -> None:
    team.put(tenant(), server())
    assert str(ME) in asked(team, address="me", own_address=ME).explanation.headline
    with pytest.raises(Refused, match="--ip me: PostgresServer main does not tell callers their address"):
        asked(team, address="me")
    with pytest.raises(Misused, match="--ip x: not an address"):
        asked(team, address="x")
