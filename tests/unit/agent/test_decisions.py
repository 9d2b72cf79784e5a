"""An agent's decisions over time, against an oracle that looks at each rule by itself at each moment."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness.address_oracle import ADDRESSES, CIDRS, inside, let_in
from tests.harness.builders import HOUR, NOW, SECOND, grant, rule, server, tenant

from vaultbrix.agent.decisions import closing_part, decide_tenant, end_due, forget_gone
from vaultbrix.agent.desired import Desired
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.meta import rfc3339
from vaultbrix.grants import file as grantsfile
from vaultbrix.grants.file import GrantsFile
from vaultbrix.grants.grant import Grant
from vaultbrix.grants.state import AgentState, GrantRecord, Opened, StateChange
from vaultbrix.runtime.addresses import Address

KEY = ("team", "acme")
LIMIT = 2


@dataclass
class Rule:
    """What the oracle knows of a rule: its terms now, and whether it has ever ended."""

    created: datetime
    cidrs: list[str]
    until: datetime
    starts: datetime | None
    revoked: bool = False
    ended: bool = False
    generation: int = 1

    def object(self, name: str) -> AccessRule:
        spec: dict[str, Any] = {"cidrs": self.cidrs, "expiresAt": rfc3339(self.until), "revoked": self.revoked}
        if self.starts:
            spec["startsAt"] = rfc3339(self.starts)
        meta = {"creationTimestamp": rfc3339(self.created), "generation": self.generation}
        return rule(name, metadata=meta, **spec)


@dataclass
class Model:
    """The oracle beside an agent's state, its journal on disk, and what its layers should hold."""

    path: Path
    rules: dict[str, Rule] = field(default_factory=dict)
    state: AgentState = field(default_factory=lambda: AgentState("main"))
    desired: Desired = field(default_factory=Desired)
    suspended: bool = False
    now: datetime = NOW
    opens_at: datetime | None = None

    def __post_init__(self) -> None:
        self.file = GrantsFile(self.path)

    def take(self, changes: list[StateChange]) -> None:
        self.file.append(self.state, changes, self.now)
        for change in changes:
            self.state.apply(change)
        self.desired = Desired(self.state.grants.values())

    def decide(self, gone: Collection[str] = ()) -> None:
        objects = [r.object(name) for name, r in self.rules.items()]
        changes, self.opens_at = decide_tenant(
            self.state,
            KEY,
            objects,
            tenant(suspended=self.suspended),
            server(limits={"maxRulesPerTenant": LIMIT}),
            self.now,
        )
        self.take([*changes, *forget_gone(self.state, gone)])

    def restart(self) -> None:
        """The agent is killed and reads what it remembers."""
        self.state = grantsfile.load(self.path, "main")
        self.file = GrantsFile(self.path)

    def expected(self) -> list[Grant]:
        """Which rules should be open, each by itself, and then the oldest of them."""
        candidates = []
        for name, r in self.rules.items():
            r.ended = r.ended or r.revoked or self.now >= r.until
            started = r.starts is None or r.starts <= self.now
            if (
                not r.ended
                and not self.suspended
                and r.until > r.created
                and r.until - (r.starts or r.created) <= 168 * HOUR
            ):
                candidates.append((r.created, f"uid-{name}", started, r))
        return [
            Grant(f"team/{uid[4:]}", uid, r.generation, "team/acme", "tenant_acme", tuple(r.cidrs), r.until, "", "")
            for _, uid, started, r in sorted(candidates, key=lambda c: c[:2])[:LIMIT]
            if started
        ]


NAMES = st.sampled_from(["a", "b", "c"])
MOMENTS = st.sampled_from([-1, 0, 1, 3, 5, 10, 20, 40])
CIDR_LISTS = st.lists(CIDRS, min_size=1, max_size=3, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("create"), NAMES, CIDR_LISTS, MOMENTS, st.none() | MOMENTS),
    st.tuples(st.just("edit"), NAMES, CIDR_LISTS, MOMENTS),
    st.tuples(st.just("revoke"), NAMES),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 2, 3, 5, 10])),
    st.tuples(st.just("wait alone"), st.sampled_from([0, 1, 2, 3, 5, 10])),
    st.tuples(st.just("restart")),
)


def perform(model: Model, step: tuple[Any, ...]) -> None:
    kind, *rest = step
    gone: set[str] = set()
    match kind, rest:
        case "create", [name, cidrs, until, starts] if name not in model.rules:
            begins = model.now + timedelta(seconds=starts) if starts is not None else None
            ends = (begins or model.now) + timedelta(seconds=until)
            model.rules[name] = Rule(model.now, cidrs, ends, begins)
        case "edit", [name, cidrs, until] if name in model.rules:
            edited = model.rules[name]
            edited.cidrs, edited.until = cidrs, edited.created + timedelta(seconds=until)
            edited.generation += 1
        case "revoke", [name] if name in model.rules:
            model.rules[name].revoked = True
        case "delete", [name] if name in model.rules:
            del model.rules[name]
            gone = {f"uid-{name}"}
        case "suspend", [suspended]:
            model.suspended = suspended
        case (("wait" | "wait alone"), [seconds]):
            model.now += timedelta(seconds=seconds)
        case "restart", _:
            model.restart()
    if kind == "wait alone":
        # Without the API server: what is due ends all the same, and nothing opens. What was not open ends unseen: it is
        # not closed yet, and new terms may still open it.
        for name, known in model.rules.items():
            known.ended = known.ended or (f"uid-{name}" in model.state.grants and model.now >= known.until)
        model.take(end_due(model.state, list(model.state.grants), model.now))
        assert all(g.deadline > model.now for g in model.state.grants.values())
    else:
        model.expected()
        model.decide(gone)


@settings(max_examples=400)
@given(st.lists(STEPS, min_size=5, max_size=40), st.lists(ADDRESSES, max_size=6))
def test_what_is_open_is_the_union_of_the_rules_that_are_open_by_themselves(
    tmp_path_factory: Any, steps: list[tuple[Any, ...]], addresses: list[Address]
) -> None:
    model = Model(tmp_path_factory.mktemp("agent") / "grants.json")
    for step in steps:
        perform(model, step)
        if step[0] in ("wait alone", "restart"):
            continue
        expected = model.expected()
        assert {(g.uid, g.cidrs, g.deadline) for g in model.desired} == {(g.uid, g.cidrs, g.deadline) for g in expected}
        for address in addresses:
            open_now = any(inside(address, cidr) for cidr in model.desired.cidrs())
            assert open_now == let_in(address, "tenant_acme", expected)


@settings(max_examples=150)
@given(st.lists(STEPS, min_size=5, max_size=40))
def test_what_is_read_back_after_a_kill_is_what_was_remembered(
    tmp_path_factory: Any, steps: list[tuple[Any, ...]]
) -> None:
    model = Model(tmp_path_factory.mktemp("agent") / "grants.json")
    reader = grantsfile.GrantsReader(model.path, "main")
    for step in steps:
        perform(model, step)
        reader.refresh()
        for other in (grantsfile.load(model.path, "main"), reader.state):
            assert other.grants == model.state.grants
            assert other.closed == model.state.closed


def test_a_rule_opens_when_it_starts_and_not_before() -> None:
    waiting = rule(startsAt=rfc3339(NOW + 10 * SECOND), ttl="20s")

    def decide(now: datetime) -> tuple[list[StateChange], datetime | None]:
        return decide_tenant(AgentState("main"), KEY, [waiting], tenant(), server(), now)

    assert decide(NOW) == ([], NOW + 10 * SECOND)
    ((opened,), _) = decide(NOW + 10 * SECOND)
    assert opened.kind == "opened"
    assert opened.grant.deadline == NOW + 30 * SECOND


@given(
    CIDR_LISTS,
    CIDR_LISTS,
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from(["tenant_acme", "tenant_beta"]),
    ADDRESSES,
)
def test_while_nothing_may_open_an_edit_still_closes_what_it_takes_away(
    before: list[str], after: list[str], earlier: int, later: int, role: str, address: Address
) -> None:
    open_grant = GrantRecord.of(grant(*before, deadline=NOW + earlier * SECOND), NOW)
    opened = Opened(grant=GrantRecord.of(grant(*after, role=role, deadline=NOW + later * SECOND), NOW), at=NOW)
    part = closing_part(open_grant, opened)
    left = open_grant if part is None else part.grant if isinstance(part, Opened) else None
    both = open_grant.role == role and open_grant.covers(address) and opened.grant.covers(address)
    assert (left is not None and left.covers(address)) is both
    assert left is None or left.deadline == min(open_grant.deadline, opened.grant.deadline)


def test_while_nothing_may_open_a_new_rule_has_no_part_that_closes() -> None:
    assert closing_part(None, Opened(grant=GrantRecord.of(grant("203.0.113.7/32"), NOW), at=NOW)) is None
