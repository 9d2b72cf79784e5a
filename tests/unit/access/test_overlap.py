"""What several open rules give together, against an oracle that counts bits."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.address_oracle import ADDRESSES, CIDRS, inside, let_in
from tests.harness.builders import HOUR, NOW, SECOND, grant

from vaultbrix.agent.desired import Desired, Session, sessions_to_end
from vaultbrix.grants.grant import Grant
from vaultbrix.runtime.addresses import Address, parse_address


def kernel_deadlines(grants: Iterable[Grant]) -> dict[str, datetime | None]:
    desired = Desired(grants)
    return {cidr: desired.deadline(cidr) for cidr in desired.cidrs()}


def hba_pairs(grants: Iterable[Grant]) -> list[tuple[str, str]]:
    return Desired(grants).pairs


ROLES = ("tenant_acme", "tenant_beta")

DEADLINES = st.integers(1, 5).map(lambda n: NOW + n * SECOND)


@st.composite
def open_grants(draw: st.DrawFn) -> list[Grant]:
    """Grants of two tenants with overlapping addresses and colliding deadlines."""
    count = draw(st.integers(0, 8))
    return [
        grant(
            *draw(st.lists(CIDRS, min_size=1, max_size=4, unique=True)),
            uid=f"u{index}",
            role=draw(st.sampled_from(ROLES)),
            deadline=draw(DEADLINES),
        )
        for index in range(count)
    ]


@given(open_grants(), ADDRESSES)
def test_the_kernel_lets_an_address_in_iff_some_open_rule_covers_it(grants: list[Grant], address: Address) -> None:
    expected = any(let_in(address, role, grants) for role in ROLES)
    assert any(inside(address, cidr) for cidr in kernel_deadlines(grants)) == expected


@given(open_grants(), ADDRESSES, st.sampled_from(ROLES))
def test_pg_hba_lets_a_role_in_iff_an_open_rule_of_that_role_covers_it(
    grants: list[Grant], address: Address, role: str
) -> None:
    lines = hba_pairs(grants)
    assert any(r == role and inside(address, cidr) for r, cidr in lines) == let_in(address, role, grants)


@given(open_grants())
def test_the_lines_of_pg_hba_have_one_order_and_no_doubles(grants: list[Grant]) -> None:
    lines = hba_pairs(grants)
    assert lines == sorted(set(lines))
    assert lines == hba_pairs(list(reversed(grants)))


@given(open_grants())
def test_an_entry_of_the_kernel_lasts_as_long_as_the_last_rule_that_names_it(grants: list[Grant]) -> None:
    wanted: dict[str, list[datetime]] = {}
    for g in grants:
        for cidr in g.cidrs:
            wanted.setdefault(cidr, []).append(g.deadline)
    assert kernel_deadlines(grants) == {cidr: max(all_) for cidr, all_ in wanted.items()}


@given(open_grants(), ADDRESSES)
def test_by_the_kernel_alone_an_address_is_cut_when_the_last_rule_over_it_ends(
    grants: list[Grant], address: Address
) -> None:
    covering = [g.deadline for g in grants if any(inside(address, cidr) for cidr in g.cidrs)]
    by_kernel = [when for cidr, when in kernel_deadlines(grants).items() if when and inside(address, cidr)]
    assert max(by_kernel, default=None) == max(covering, default=None)


@given(open_grants(), st.data())
def test_closing_one_rule_never_takes_what_another_still_gives(grants: list[Grant], data: st.DataObject) -> None:
    if not grants:
        return
    ending = data.draw(st.sampled_from(grants))
    left = [g for g in grants if g is not ending]
    for g in left:
        for cidr in g.cidrs:
            assert (g.role, cidr) in hba_pairs(left)
            until = kernel_deadlines(left)[cidr]
            assert until is not None
            assert until >= g.deadline


@given(open_grants(), st.lists(st.tuples(st.sampled_from(ROLES), st.one_of(st.none(), ADDRESSES)), max_size=12))
def test_a_session_ends_iff_no_open_rule_of_its_role_covers_its_address(
    grants: list[Grant], connected: list[tuple[str, Address | None]]
) -> None:
    sessions = [Session(pid, role, address) for pid, (role, address) in enumerate(connected)]
    by_role = {role: [g for g in grants if g.role == role] for role in ROLES}
    expected = [s for s in sessions if s.address is None or not let_in(s.address, s.role, grants)]
    assert sessions_to_end(sessions, by_role) == expected


@given(open_grants(), ADDRESSES)
def test_a_grant_covers_an_address_iff_one_of_its_prefixes_does(grants: list[Grant], address: Address) -> None:
    for g in grants:
        assert g.covers(address) == any(inside(address, cidr) for cidr in g.cidrs)


@given(open_grants(), st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_opening_and_closing_one_by_one_ends_where_starting_anew_does(
    grants: list[Grant], steps: list[tuple[bool, int, int]]
) -> None:
    desired, left = Desired(), dict[str, Grant]()
    for opens, uid, terms in steps:
        if opens and terms < len(grants):
            # A rule that was edited has the terms of another.
            edited = replace(grants[terms], uid=f"u{uid}")
            assert desired.open(edited) == left.get(f"u{uid}")
            left[f"u{uid}"] = edited
        else:
            assert desired.close(f"u{uid}") == left.pop(f"u{uid}", None)
        anew = Desired(left.values())
        assert desired.pairs == anew.pairs
        assert {c: desired.deadline(c) for c in desired.cidrs()} == kernel_deadlines(left.values())
        assert {g.uid for g in desired} == left.keys()


@given(open_grants(), st.lists(st.tuples(st.sampled_from(ROLES), st.one_of(st.none(), ADDRESSES)), max_size=12))
def test_a_session_is_counted_for_each_rule_that_covers_it(
    grants: list[Grant], connected: list[tuple[str, Address | None]]
) -> None:
    sessions = [Session(pid, role, address) for pid, (role, address) in enumerate(connected)]
    counts = Desired(grants).count(sessions)
    for g in grants:
        expected = [s for s in sessions if s.role == g.role and s.address and let_in(s.address, s.role, [g])]
        assert counts.get(g.uid, 0) == len(expected)
    assert Desired(grants).uncovered(sessions) == sessions_to_end(
        sessions, {role: [g for g in grants if g.role == role] for role in ROLES}
    )


def test_a_session_of_a_role_without_any_rule_ends() -> None:
    session = Session(1, "tenant_acme", ip_address("203.0.113.7"))
    assert sessions_to_end([session], {}) == [session]
    assert sessions_to_end([session], {"tenant_beta": [grant("203.0.113.7/32", role="tenant_beta")]}) == [session]


def test_a_shorter_rule_does_not_shorten_a_longer_one_whatever_the_order() -> None:
    short = grant("203.0.113.7/32", uid="short", deadline=NOW + SECOND)
    long = grant("203.0.113.7/32", uid="long", deadline=NOW + HOUR)
    assert kernel_deadlines([short, long]) == kernel_deadlines([long, short]) == {"203.0.113.7/32": NOW + HOUR}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7/32", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_is_read_as_postgresql_prints_it(text: str, address: str) -> None:
    assert parse_address(text) == ip_address(address)


def test_something_that_is_no_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="local"):
        parse_address("[local]")
