"""Which connections end: none that no grant covers stays, none that is known to be covered goes."""

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.agent.connections import Connection, Sight, connections_to_cut, owners
from vaultbrix.agent.desired import Desired, Session
from vaultbrix.grants.grant import Grant

ROLES = ("tenant_a", "tenant_b", "rule_c")
ADDRESSES = tuple(
    map(ip_address, ("203.0.113.7", "203.0.113.8", "198.51.100.9", "10.0.0.5", "2001:db8::7", "127.0.0.1"))
)
CIDRS = ("203.0.113.7/32", "203.0.113.0/24", "198.51.100.9/32", "10.0.0.0/24", "2001:db8::/64", "2001:db8::7/128")
TRUSTED = ("10.0.0.0/24",)


def grant(number: int, role: str, *cidrs: str) -> Grant:
    return Grant(
        rule=f"team/{number}",
        uid=f"uid-{number}",
        generation=1,
        tenant="team/acme",
        role=role,
        cidrs=cidrs,
        deadline=datetime(2030, 1, 1, tzinfo=UTC),
        requested_by="jane@example.com",
        reason="tests",
    )


def connection(address: str, port: int = 50_000) -> Connection:
    parsed = ip_address(address)
    return Connection(parsed, port, f"{address} {port}".encode(), is_local=parsed.is_loopback)


SHARED = connection("203.0.113.7")
MINE, NEIGHBOURS = grant(1, "tenant_a", "203.0.113.7/32"), grant(2, "tenant_b", "203.0.113.0/24")


def owned(connection: Connection, role: str, *, of_tenant: bool = True) -> dict[Connection, Session]:
    return {connection: Session(1, role, connection.address, connection.port, of_tenant)}


def test_an_address_that_nothing_lets_in_has_no_connection_whatever_postgresql_says() -> None:
    for answered in (True, False):
        assert connections_to_cut([SHARED], Desired(), Sight({}, answered)) == [SHARED]


def test_the_ended_one_of_two_tenants_at_one_address_is_cut_alone() -> None:
    desired, other = Desired([NEIGHBOURS]), replace(SHARED, port=50_001, identity=b"other")
    sight = Sight(owned(SHARED, "tenant_a") | owned(other, "tenant_b"), answered=False, ended=[MINE])
    assert connections_to_cut([SHARED, other], desired, sight) == [SHARED]


def test_whoever_is_logging_in_where_another_grant_lets_in_is_left_until_postgresql_names_him() -> None:
    desired = Desired([NEIGHBOURS])
    assert connections_to_cut([SHARED], desired, Sight({}, answered=True, ended=[MINE])) == []
    assert connections_to_cut([SHARED], desired, Sight({}, answered=False, ended=[MINE])) == [SHARED]


def test_whoever_was_logging_in_when_a_grant_ended_stays_suspect() -> None:
    sight = Sight({}, answered=False, suspects={SHARED})
    assert connections_to_cut([SHARED, replace(SHARED, identity=b"later")], Desired([NEIGHBOURS]), sight) == [SHARED]


def test_a_connection_is_the_same_before_and_after_postgresql_accepts_it() -> None:
    known = owned(replace(SHARED, inode=7), "tenant_b")
    assert connections_to_cut([SHARED], Desired([NEIGHBOURS]), Sight(known, answered=False, ended=[MINE])) == []


def test_without_an_ended_grant_nobody_is_cut_because_postgresql_is_silent() -> None:
    assert connections_to_cut([SHARED], Desired([NEIGHBOURS]), Sight({}, answered=False)) == []


def test_a_login_whose_name_cannot_be_looked_up_counts_as_unknown() -> None:
    sight = Sight(owned(SHARED, ""), answered=True, ended=[MINE])
    assert connections_to_cut([SHARED], Desired([NEIGHBOURS]), sight) == [SHARED]


def test_the_operators_connections_and_local_ones_stay() -> None:
    operators, local = connection("10.0.0.5"), connection("127.0.0.1")
    assert connections_to_cut([operators, local], Desired(), Sight({}, answered=False, trusted=TRUSTED)) == []
    known = owned(SHARED, "postgres", of_tenant=False)
    assert connections_to_cut([SHARED], Desired(), Sight(known, answered=True)) == []


def test_two_sessions_of_one_address_and_port_name_nobody() -> None:
    sessions = [Session(pid, role, SHARED.address, SHARED.port) for pid, role in ((1, "tenant_a"), (2, "tenant_b"))]
    assert owners([SHARED], sessions[:1]) == {SHARED: sessions[0]}
    assert owners([SHARED], sessions) == {}
    assert owners([replace(SHARED, port=1)], sessions[:1]) == {}


def test_a_lookup_by_address_follows_what_opens_and_closes() -> None:
    desired = Desired([MINE, NEIGHBOURS])
    assert desired.lets_in(SHARED.address)
    desired.close(NEIGHBOURS.uid)
    assert desired.lets_in(SHARED.address)
    assert not desired.lets_in(ip_address("203.0.113.8"))
    desired.close(MINE.uid)
    assert not desired.lets_in(SHARED.address)


some_grants = st.lists(
    st.builds(
        lambda role, cidrs: (role, tuple(sorted(cidrs))),
        st.sampled_from(ROLES),
        st.sets(st.sampled_from(CIDRS), min_size=1, max_size=3),
    ),
    max_size=5,
)
owner = st.one_of(
    st.none(),
    st.tuples(st.sampled_from((*ROLES, "")), st.just(True)),
    st.just(("postgres", False)),
)


@given(
    open_terms=some_grants,
    ended_terms=some_grants,
    clients=st.lists(st.tuples(st.sampled_from(ADDRESSES), owner), max_size=8),
    answered=st.booleans(),
)
def test_nothing_uncovered_stays_and_nothing_covered_goes(
    open_terms: list[tuple[str, tuple[str, ...]]],
    ended_terms: list[tuple[str, tuple[str, ...]]],
    clients: list[tuple[object, tuple[str, bool] | None]],
    answered: bool,
) -> None:
    open_grants = [grant(number, role, *cidrs) for number, (role, cidrs) in enumerate(open_terms)]
    ended = [grant(100 + number, role, *cidrs) for number, (role, cidrs) in enumerate(ended_terms)]
    connections = [connection(str(address), port) for port, (address, _) in enumerate(clients)]
    known = {
        c: Session(c.port, login[0], c.address, c.port, login[1])
        for c, (_, login) in zip(connections, clients, strict=True)
        if login is not None
    }
    cut = set(connections_to_cut(connections, Desired(open_grants), Sight(known, answered, ended, TRUSTED)))
    for c in connections:
        # An oracle without an index: every CIDR is asked.
        covering = {g.role for g in open_grants for cidr in g.cidrs if c.address in ip_network(cidr)}
        once = any(c.address in ip_network(cidr) for g in ended for cidr in g.cidrs)
        without_grant = c.is_local or c.address in ip_network(TRUSTED[0])
        session = known.get(c)
        if session is not None and not session.of_tenant:
            assert c not in cut, "no tenant's"
        elif session is not None and session.role:
            assert (c in cut) == (session.role not in covering), "PostgreSQL has said whose it is"
        elif not covering and not without_grant:
            assert c in cut, "nothing lets that address in"
        elif once and (session is not None or not answered):
            assert c in cut, "it may be one of an ended grant"
        else:
            assert c not in cut, "nothing speaks against it"
