"""What a person may ask for about direct access, without a terminal and without a cluster."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, TypeVar

import pytest
from tests.harness.builders import HOUR, Raw, approval, rule, server, tenant, true
from tests.harness.fake_kube import GONE, FakeKube

from vaultbrix.access import actions
from vaultbrix.access.actions import (
    AllowOptions,
    Answer,
    ExplainOptions,
    ExtendOptions,
    RevokeOptions,
    RevokeStep,
    RuleChange,
    RulesOptions,
    allow,
    explain_address,
    extend,
    list_rules,
    revoke,
    watch_rules,
)
from vaultbrix.access.decisions import rule_login
from vaultbrix.access.progress import Progress
from vaultbrix.api.accessrule import AccessRule, RuleLogin
from vaultbrix.api.meta import Resource, rfc3339
from vaultbrix.kube import person
from vaultbrix.kube.person import Missing, NameTaken, PersonClient
from vaultbrix.runtime.usage import Misused, Refused

T = TypeVar("T")

READY = {**true("Ready")[0], "observedGeneration": 2}
OPEN: Raw = {"status": {"phase": "Open", "conditions": [READY]}}
PENDING: Raw = {"status": {"phase": "Pending"}}
REJECTED: Raw = {
    "status": {"phase": "Rejected", "conditions": [{**READY, "status": "False", "reason": "PrefixTooWide"}]}
}
ME = ip_address("198.51.100.9")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def client(kube: FakeKube) -> PersonClient:
    return PersonClient(kube, namespace="team")  # type: ignore[arg-type]


def request(**changes: Any) -> AllowOptions:
    given = {"tenant": "acme", "cidrs": ("203.0.113.7",), "reason": "CHG-1", "lasting": "2h", "name": "jane", **changes}
    return AllowOptions(**given)


def current(name: str = "jane", *, namespace: str = "team", status: Raw | None = None, **spec: Any) -> AccessRule:
    """A rule that was created just now."""
    metadata = {"namespace": namespace, "creationTimestamp": rfc3339(datetime.now(UTC))}
    return rule(name, metadata=metadata, status=status, **spec)


def ended(name: str) -> AccessRule:
    at = rfc3339(datetime.now(UTC) - HOUR)
    return current(name, status={"phase": "Expired", "closedAt": at, "closedReason": "Expired"})


async def collected(items: AsyncIterator[T], most: int = 100) -> list[T]:
    kept = []
    async for item in items:
        kept.append(item)
        if len(kept) == most:
            break
    return kept


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(actions, "RELIST_SECONDS", 0)


def test_access_is_asked_for_and_waited_for() -> None:
    kube = FakeKube(tenant(), server())
    kube.then("jane", PENDING, OPEN)
    states: list[AccessRule] = []
    allowed = run(allow(client(kube), request(), states.append))
    assert (allowed.progress, allowed.in_force) == (Progress.READY, True)
    assert [r.status.phase for r in states] == ["Pending", "Open"]
    (created,) = kube.created
    assert created["spec"] == {
        "tenantRef": {"name": "acme"}, "cidrs": ["203.0.113.7/32"], "reason": "CHG-1",
        "requestedBy": "jane@example.com", "login": "Tenant", "ttl": "2h",
    }  # fmt: skip
    assert allowed.connection.server is not None
    assert (allowed.connection.role, allowed.connection.secret) == ("tenant_acme", "acme-db")
    assert allowed.rule.manifest["metadata"]["name"] == "jane"


def test_a_login_of_the_rules_own_is_where_to_connect() -> None:
    kube = FakeKube(tenant(), server())
    kube.then("jane", OPEN)
    allowed = run(allow(client(kube), request(login=RuleLogin.PER_RULE)))
    assert allowed.connection.role == rule_login("tenant_acme", "uid-jane")
    assert allowed.connection.secret == "jane-access"


@pytest.mark.parametrize(
    ("changes", "progress"),
    [({}, Progress.NEVER), ({"timeout": "1s"}, Progress.WAITING), ({"wait": False}, None)],
    ids=["never", "late", "not waited"],
)
def test_a_rule_that_is_not_in_force_is_told_from_one_that_is(changes: Raw, progress: Progress | None) -> None:
    kube = FakeKube(tenant(), server())
    if progress is Progress.NEVER:
        kube.then("jane", REJECTED)
    allowed = run(allow(client(kube), request(**changes)))
    assert (allowed.progress, allowed.in_force) == (progress, False)
    assert len(kube.created) == 1


def test_a_dry_run_creates_nothing_and_waits_for_nothing() -> None:
    kube = FakeKube(tenant(), server())
    allowed = run(allow(client(kube), request(dry_run=True)))
    assert allowed.progress is None
    assert allowed.rule.resource.spec.cidrs == ["203.0.113.7/32"]
    assert kube.created == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lasting": None}, "exactly one of --for"),
        ({"timeout": "soon"}, "--timeout soon"),
        ({"cidrs": ("banana",)}, "--cidr banana"),
        ({"cidrs": ("me", "0.0.0.0/0")}, "every address"),
        ({"reason": " "}, "--reason"),
        ({"requested_by": "two words"}, "--requested-by"),
        ({"name": "No Name"}, "--name No Name"),
    ],
)
def test_what_is_wrong_by_itself_is_told_before_anybody_is_asked(changes: Raw, says: str) -> None:
    with pytest.raises(Misused, match=says):
        run(allow(PersonClient(None, namespace="team"), request(**changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("objects", "changes", "says"),
    [
        ([server()], {}, "Tenant acme not found"),
        ([tenant(), server()], {"cidrs": ("203.0.0.0/16",)}, "wider than /24"),
        ([tenant(), server()], {"lasting": "169h"}, "may last 168h at most"),
        ([tenant(), server(limits={"maxRulesPerTenant": 1}), current("other")], {}, "limit of PostgresServer main"),
        ([tenant()], {"cidrs": ("me",)}, "--cidr me: there is no PostgresServer main"),
        ([tenant(), server()], {"cidrs": ("me",)}, "does not tell callers their address"),
    ],
)
def test_what_the_cluster_does_not_allow_creates_nothing(objects: list[Resource], changes: Raw, says: str) -> None:
    kube = FakeKube(*objects)
    with pytest.raises(Refused, match=says):
        run(allow(client(kube), request(**changes)))
    assert kube.created == []


def test_me_is_the_address_of_the_person_that_another_program_acts_for() -> None:
    kube = FakeKube(tenant(), server())
    run(allow(client(kube), request(cidrs=("203.0.113.7", "me"), own_address=ME, wait=False)))
    assert kube.created[0]["spec"]["cidrs"] == ["203.0.113.7/32", "198.51.100.9/32"]


def test_a_name_that_is_taken_is_refused() -> None:
    kube = FakeKube(tenant(), server(), current())
    with pytest.raises(NameTaken, match="--name jane: namespace team has an AccessRule of that name, and an ended one"):
        run(allow(client(kube), request()))


def test_limits_that_may_not_be_read_are_the_operators_to_enforce() -> None:
    kube = FakeKube(tenant(), server())
    kube.forbidden = {("get", "postgresservers")}
    allowed = run(allow(client(kube), request(cidrs=("203.0.0.0/16",), wait=False)))
    assert allowed.connection.server is None
    assert len(kube.created) == 1


def test_a_rule_that_is_deleted_while_it_is_waited_for_ends_the_waiting() -> None:
    kube = FakeKube(tenant(), server())
    kube.then("jane", PENDING, None)
    with pytest.raises(Missing, match="was deleted meanwhile"):
        run(allow(client(kube), request()))


AGENT = {"name": "agent-1", "generation": 2, "hba": False, "kernel": False, "at": rfc3339(datetime.now(UTC))}
CLOSED: Raw = {"status": {"phase": "Revoked", "agents": [AGENT]}}


def test_rules_are_revoked_first_and_waited_for_then() -> None:
    kube = FakeKube(current("a"), ended("old"), current("b", status={"openedAt": rfc3339(datetime.now(UTC))}))
    kube.then("a", {}, {}, CLOSED)
    options = RevokeOptions(names=("a", "old", "a", "b"), timeout="1s")
    steps = run(collected(revoke(client(kube), options)))
    assert [(s.rule.metadata.name, s.step) for s in steps] == [
        ("a", RevokeStep.REVOKED),
        ("old", RevokeStep.ENDED_BEFORE),
        ("b", RevokeStep.REVOKED),
        ("a", RevokeStep.CLOSED),
        ("b", RevokeStep.NOT_CLOSED),
    ]
    assert kube.patched == [{"spec": {"revoked": True}}] * 2


def test_nothing_is_waited_for_unless_it_is_asked_for() -> None:
    kube = FakeKube(current("a"))
    steps = run(collected(revoke(client(kube), RevokeOptions(names=("a",), wait=False))))
    assert [s.step for s in steps] == [RevokeStep.REVOKED]


def test_no_rule_is_revoked_unless_all_exist() -> None:
    kube = FakeKube(current("a"))
    with pytest.raises(Missing, match="AccessRule b not found"):
        run(collected(revoke(client(kube), RevokeOptions(names=("a", "b")))))
    assert kube.patched == []


def test_a_rule_is_extended_from_the_state_that_was_read() -> None:
    kube = FakeKube(tenant(), server(), current())
    kube.conflicts = 2
    kube.then("jane", {}, {}, {}, OPEN)
    extended = run(extend(client(kube), ExtendOptions(name="jane", lasting="1h")))
    assert extended.progress is Progress.READY
    (patch,) = kube.patched
    assert patch["spec"] == {"ttl": "3h"}
    assert patch["metadata"]["resourceVersion"]


def test_an_extension_that_always_collides_is_given_up() -> None:
    kube = FakeKube(tenant(), server(), current())
    kube.conflicts = 1000
    with pytest.raises(Refused, match="changes all the time"):
        run(extend(client(kube), ExtendOptions(name="jane", lasting="1h")))


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
def test_an_extension_that_cannot_be_writes_nothing(options: ExtendOptions, error: type[Exception], says: str) -> None:
    kube = FakeKube(tenant(), server(), current(), ended("old"))
    with pytest.raises(error, match=says):
        run(extend(client(kube), options))
    assert kube.patched == []


def names(rules: list[Any]) -> list[str]:
    return [item.resource.metadata.name for item in rules]


def test_rules_are_listed_as_asked_for() -> None:
    beta = current("beta", tenantRef={"name": "beta"})
    asking = client(FakeKube(current("a"), ended("old"), beta, current("far", namespace="else")))
    assert names(run(list_rules(asking, RulesOptions()))) == ["a", "beta"]
    assert names(run(list_rules(asking, RulesOptions(ended=True)))) == ["a", "old", "beta"]
    assert names(run(list_rules(asking, RulesOptions(tenant="beta")))) == ["beta"]
    assert "far" in names(run(list_rules(asking, RulesOptions(everywhere=True, ended=True))))


def test_a_watch_tells_all_rules_then_each_change_and_all_anew_after_a_gap() -> None:
    kube = FakeKube(current("a"), current("beta", tenantRef={"name": "beta"}))
    kube.events = [
        [
            {"type": "BOOKMARK", "object": {}},
            {"type": "MODIFIED", "object": current("a").dump()},
            {"type": "MODIFIED", "object": current("beta", tenantRef={"name": "beta"}).dump()},
            {"type": "DELETED", "object": current("a").dump()},
            GONE,
        ]
    ]
    first, *changes, last = run(collected(watch_rules(client(kube), RulesOptions(tenant="acme")), 4))
    assert not isinstance(first, RuleChange)
    assert not isinstance(last, RuleChange)
    assert names(list(first.items)) == names(list(last.items)) == ["a"]
    assert [(c.rule.metadata.name, c.deleted) for c in changes if isinstance(c, RuleChange)] == [
        ("a", False),
        ("a", True),
    ]


def asked(kube: FakeKube, **options: Any) -> Answer:
    return run(explain_address(client(kube), ExplainOptions(**{"address": "203.0.113.7", "tenant": "acme", **options})))


def test_an_address_is_explained_with_what_would_let_it_in() -> None:
    ready = server().model_copy(update={"status": server().status.model_copy(update={"conditions": []})})
    answer = asked(FakeKube(tenant(), ready, approval()))
    assert not answer.explanation.admitted
    assert answer.explanation.obstacles
    kube = FakeKube(tenant(), ready, approval())
    kube.forbidden = {("get", "postgresservers"), ("list", "ddlapprovals")}
    answer = asked(kube)
    assert answer.server is None
    assert answer.next_step == "vaultbrix allow acme -n team --cidr 203.0.113.7 --for 1h --reason ..."
    assert any("you may not read PostgresServers" in note for note in answer.explanation.notes)


def test_the_address_of_the_person_is_explained_where_it_is_known() -> None:
    kube = FakeKube(tenant(), server())
    assert str(ME) in asked(kube, address="me", own_address=ME).explanation.headline
    with pytest.raises(Refused, match="--ip me: PostgresServer main does not tell callers their address"):
        asked(kube, address="me")
    with pytest.raises(Misused, match="--ip x: not an address"):
        asked(kube, address="x")
