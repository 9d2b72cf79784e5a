"""What the layers should let in: all open grants, indexed for each layer and updated grant by grant."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network

from vaultbrix.grants.grant import Grant
from vaultbrix.runtime.addresses import Address

Pair = tuple[str, str]


@dataclass(frozen=True)
class Session:
    """A client backend as pg_stat_activity shows it; ``address`` is None on a Unix socket.

    ``role`` is empty while nobody can say its name. ``of_tenant`` is False for the logins that are none of the agent's
    business: the admin's, those of Jobs and of the data API.
    """

    pid: int
    role: str
    address: Address | None
    port: int | None = None
    of_tenant: bool = True


def sessions_to_end(sessions: Iterable[Session], grants: Mapping[str, Iterable[Grant]]) -> list[Session]:
    """Return the tenants' sessions that no open grant of their login role covers.

    ``grants`` maps a role to its open grants. A session from a trusted (cluster-internal) address is ended, too:
    tenants do not log in from there.
    """
    return [
        s
        for s in sessions
        if s.of_tenant
        and s.role
        and (s.address is None or not any(g.covers(s.address) for g in grants.get(s.role, ())))
    ]


class Desired:
    """Open grants with an index for each layer. To open or close one costs as much as it has CIDRs."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._grants: dict[str, Grant] = {}
        self._deadlines: dict[str, dict[str, datetime]] = {}
        self._holders: dict[Pair, int] = {}
        self._of_role: dict[str, dict[str, Grant]] = {}
        # The role of each login that grants of it let in.
        self._role_of: dict[str, str] = {}
        # How many of the CIDRs have each IP version and prefix length.
        self._lengths: Counter[tuple[int, int]] = Counter()
        self.pairs: list[Pair] = []
        """Sorted (role, CIDR): one pg_hba line each."""
        for grant in grants:
            self.open(grant)

    def get(self, uid: str) -> Grant | None:
        """Return the open grant of a rule by its uid, None where it is not open."""
        return self._grants.get(uid)

    def __iter__(self) -> Iterator[Grant]:
        return iter(self._grants.values())

    def open(self, grant: Grant) -> Grant | None:
        """Add a grant; returns the earlier grant of the same rule that it replaces, None where there is none."""
        earlier = self.close(grant.uid)
        self._grants[grant.uid] = grant
        self._of_role.setdefault(grant.role, {})[grant.uid] = grant
        self._role_of.update(dict.fromkeys(grant.logins, grant.role))
        for cidr in grant.cidrs:
            if cidr not in self._deadlines:
                self._lengths[_length(cidr)] += 1
            self._deadlines.setdefault(cidr, {})[grant.uid] = grant.deadline
            pair = (grant.role, cidr)
            self._holders[pair] = self._holders.get(pair, 0) + 1
            if self._holders[pair] == 1:
                insort(self.pairs, pair)
        return earlier

    def close(self, uid: str) -> Grant | None:
        """Remove the grant of a rule by its uid and return it, None where it was not open."""
        grant = self._grants.pop(uid, None)
        if grant is None:
            return None
        _discard(self._of_role, grant.role, uid)
        for cidr in grant.cidrs:
            _discard(self._deadlines, cidr, uid)
            if cidr not in self._deadlines:
                self._lengths[_length(cidr)] -= 1
            pair = (grant.role, cidr)
            self._holders[pair] -= 1
            if not self._holders[pair]:
                del self._holders[pair]
                del self.pairs[bisect_left(self.pairs, pair)]
        return grant

    def deadline(self, cidr: str) -> datetime | None:
        """Return until when a CIDR is let through: the latest deadline of grants that name it; None: not at all.

        Nested prefixes stay entries of their own; the kernel lets a packet through if any entry covers it.
        """
        return max(self._deadlines.get(cidr, {}).values(), default=None)

    def cidrs(self) -> Iterable[str]:
        """Return all CIDRs that the kernel should let through."""
        return self._deadlines.keys()

    def covers(self, role: str, address: Address) -> bool:
        """Whether an open grant lets this role log in from the address."""
        return any(grant.covers(address) for grant in self._grants_of(role))

    def lets_in(self, address: Address) -> bool:
        """Whether an open grant of any role covers the address; costs as much as there are prefix lengths."""
        lengths = (length for (version, length), cidrs in self._lengths.items() if cidrs and version == address.version)
        return any(str(ip_network((address, length), strict=False)) in self._deadlines for length in lengths)

    def uncovered(self, sessions: Iterable[Session]) -> list[Session]:
        """Return the tenants' sessions that no open grant of their login role covers."""
        open_sessions = list(sessions)
        return sessions_to_end(open_sessions, {s.role: self._grants_of(s.role) for s in open_sessions})

    def count(self, sessions: Iterable[Session]) -> dict[str, int]:
        """Count sessions by uid of the rule that covers them; one that several rules cover counts for each."""
        counts: dict[str, int] = {}
        for session in sessions:
            for grant in self._grants_of(session.role):
                if session.address is not None and grant.covers(session.address):
                    counts[grant.uid] = counts.get(grant.uid, 0) + 1
        return counts

    def _grants_of(self, login: str) -> Collection[Grant]:
        return self._of_role.get(self._role_of.get(login, login), {}).values()


def _length(cidr: str) -> tuple[int, int]:
    """IP version and prefix length of a CIDR."""
    return 6 if ":" in cidr else 4, int(cidr.rpartition("/")[2])


def _discard(index: dict[str, dict[str, datetime]] | dict[str, dict[str, Grant]], key: str, uid: str) -> None:
    del index[key][uid]
    if not index[key]:
        del index[key]
