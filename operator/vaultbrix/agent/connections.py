"""Decides which connections to PostgreSQL end when a grant does. Pure.

The kernel says which connections there are, whatever PostgreSQL does. Whose they are only PostgreSQL can say, and it
may not answer when a grant ends: then its last answer counts, and what that does not tell is decided closed.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from vaultbrix.agent.desired import Desired, Session
from vaultbrix.grants.grant import Grant
from vaultbrix.runtime.addresses import Address, within


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection to PostgreSQL's port as the kernel has it, with the client's address and port.

    ``identity`` is the kernel's own name for the socket, which no other socket gets. ``inode`` is 0 while no process
    has the socket, as before PostgreSQL accepts it. ``is_local``: it comes from this machine itself.
    """

    address: Address
    port: int
    identity: bytes
    inode: int = field(default=0, compare=False)
    is_local: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Sight:
    """What is known when connections are judged.

    ``owners`` is whose each connection was when PostgreSQL last said so. ``answered``: that was just now, so a
    connection without an owner is still logging in. ``ended`` are grants whose connections may still be there, and
    ``suspects`` connections that were logging in when one ended. ``trusted`` are the CIDRs that need no grant.
    """

    owners: Mapping[Connection, Session]
    answered: bool
    ended: Sequence[Grant] = ()
    trusted: Sequence[str] = ()
    suspects: Set[Connection] = frozenset()


def owners(connections: Iterable[Connection], sessions: Iterable[Session]) -> dict[Connection, Session]:
    """Return whose each connection is, for those that have a session.

    ``connections`` must have been read before ``sessions``: then a port that was used again in between names a socket
    that is gone. Where two sessions have one address and port, nobody can say.
    """
    by_peer: dict[tuple[Address, int], Session | None] = {}
    for session in sessions:
        if session.address is not None and session.port is not None:
            peer = (session.address, session.port)
            by_peer[peer] = None if peer in by_peer else session
    found = ((connection, by_peer.get((connection.address, connection.port))) for connection in connections)
    return {connection: session for connection, session in found if session is not None}


def connections_to_cut(connections: Iterable[Connection], desired: Desired, sight: Sight) -> list[Connection]:
    """Return the connections that end.

    Whose owner is known: one of a tenant that no open grant of its login covers. Whose owner is not known: one from an
    address that nothing lets in; and, unless it is still logging in, one from an address of a grant that has ended,
    even if another grant lets that address in. Its client can log in again.
    """
    return [connection for connection in connections if _is_cut(connection, desired, sight)]


def is_doubtful(connection: Connection, sight: Sight) -> bool:
    """Whether nobody can say whose the connection is, though it may be more than one that is still logging in."""
    owner = sight.owners.get(connection)
    return not sight.answered if owner is None else not owner.role


def is_suspect(connection: Connection, sight: Sight) -> bool:
    """Whether the connection may be one of a grant that has ended."""
    return connection in sight.suspects or any(grant.covers(connection.address) for grant in sight.ended)


def _is_cut(connection: Connection, desired: Desired, sight: Sight) -> bool:
    owner = sight.owners.get(connection)
    if owner is not None and owner.role:
        return owner.of_tenant and not desired.covers(owner.role, connection.address)
    if not (connection.is_local or within(connection.address, sight.trusted) or desired.lets_in(connection.address)):
        return True
    return is_doubtful(connection, sight) and is_suspect(connection, sight)
