"""Decides what no object explains, since when, whether it is ours to end, and what the server says of it. Pure."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network

from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.orphan import Orphan, OrphanKind
from vaultbrix.ddl.decisions import LOGIN_PREFIX, REHEARSAL_PREFIX, run_name
from vaultbrix.runtime.visible import visible

GRACE = timedelta(seconds=30)
"""For how long something has to be unexplained: whatever makes or ends it may be about to."""

MOST_LISTED = 32
_LONGEST_NAME = 253
# In one message.
_SHOWN = 5

# Logins that live for one rule, run or rehearsal (access.decisions.rule_login, ddl.decisions.login_name).
_PASSING_LOGIN = re.compile(rf"tenant_[a-z0-9_]+_r_[0-9a-f]{{10}}|({LOGIN_PREFIX}|{REHEARSAL_PREFIX})[0-9a-f]{{32}}")
_RUN_SECRET = re.compile(run_name("([0-9a-f-]{36})"))

OrphanKey = tuple[OrphanKind, str]
"""Kind and name."""

Place = tuple[str, str]
"""(namespace, name)."""


@dataclass(frozen=True)
class LoginSeen:
    """A role that is named as ours are, or belongs to a group of ours, which is ``marked``."""

    name: str
    can_log_in: bool
    superuser: bool
    marked: bool


@dataclass(frozen=True)
class HbaLine:
    """A line of pg_hba.conf that lets roles in from an address: as PostgreSQL shows it, None on the machine itself.

    ``users`` are as the file has them: ``+`` before a group.
    """

    users: tuple[str, ...]
    address: str | None
    netmask: str | None


@dataclass(frozen=True)
class ObjectSeen:
    """An object that the operator made, with the uids of its owners of our kinds, and the server that it is for."""

    namespace: str
    name: str
    uid: str
    owners: tuple[str, ...] = ()
    server: str = ""


@dataclass(frozen=True)
class Present:
    """What there is of ours. ``schemas`` are those that no tenant, present or past, has claimed.

    ``passes`` are the ids of open ones, each of which is the uid of its approval.
    """

    logins: Sequence[LoginSeen] = ()
    schemas: Sequence[str] = ()
    lines: Sequence[HbaLine] = ()
    passes: Sequence[str] = ()
    secrets: Sequence[ObjectSeen] = ()
    policies: Sequence[ObjectSeen] = ()


@dataclass(frozen=True)
class Explained:
    """What objects account for, of all servers: two PostgresServers may lead to one PostgreSQL.

    ``logins`` and ``schemas`` are names, ``let_in`` pairs of role and CIDR of open rules, ``uids`` those of all objects
    of ours, ``policies`` where NetworkPolicies belong, and ``servers`` the names of all servers.
    """

    logins: Set[str]
    schemas: Set[str]
    let_in: Set[tuple[str, str]]
    uids: Set[str]
    policies: Set[Place]
    servers: Set[str]


@dataclass(frozen=True)
class Suspect:
    """Something unexplained. ``harmless`` says that to end it loses nothing; ``place`` and ``uid`` are an object's."""

    kind: OrphanKind
    name: str
    harmless: bool = False
    place: Place = ("", "")
    uid: str = ""

    @property
    def key(self) -> OrphanKey:
        """By which it is known again."""
        return (self.kind, self.name)


def unexplained(present: Present, explained: Explained, server: str) -> list[Suspect]:
    """What is present on a server, or in the cluster for it, and explained by no object."""
    found = [
        *_logins(present.logins, explained),
        *(Suspect(OrphanKind.SCHEMA, _shown(s)) for s in present.schemas if s not in explained.schemas),
        *_lines(present.lines, explained),
        *(Suspect(OrphanKind.PASS, p, harmless=True) for p in present.passes if p not in explained.uids),
        *_secrets(present.secrets, explained, server),
        *(
            _object(OrphanKind.NETWORK_POLICY, policy)
            for policy in present.policies
            if (policy.namespace, policy.name) not in explained.policies
        ),
    ]
    # What looks alike, such as two lines for one address, is one.
    return list({suspect.key: suspect for suspect in found}.values())


def _logins(logins: Iterable[LoginSeen], explained: Explained) -> Iterable[Suspect]:
    for login in logins:
        passing = _PASSING_LOGIN.fullmatch(login.name) is not None
        ours = passing or login.marked or login.name.startswith("tenant_")
        # A tenant's role that is locked is how a deleted Tenant's data is kept.
        if ours and (passing or login.can_log_in) and login.name not in explained.logins:
            harmless = passing and login.marked and not login.superuser
            yield Suspect(OrphanKind.LOGIN, _shown(login.name), harmless)


def _lines(lines: Iterable[HbaLine], explained: Explained) -> Iterable[Suspect]:
    for line in lines:
        address = _cidr(line)
        for user in line.users:
            tenants = user == "+vaultbrix_tenants" or user.removeprefix("+").startswith("tenant_")
            if tenants and (user, address) not in explained.let_in:
                yield Suspect(OrphanKind.HBA_RULE, _shown(f"{user} {address}"))


def _cidr(line: HbaLine) -> str:
    if line.address is None:
        return "local"
    try:
        ones = f"{int(ip_address(line.netmask or '')):b}".count("1")
        return str(ip_network(f"{line.address}/{ones}", strict=False))
    except ValueError:
        # A host's name, or a word such as all.
        return line.address


def _secrets(secrets: Iterable[ObjectSeen], explained: Explained, server: str) -> Iterable[Suspect]:
    for secret in secrets:
        run = _RUN_SECRET.fullmatch(secret.name)
        owners = {run[1]} if run is not None else set(secret.owners)
        # That of a server that is gone concerns whoever looks.
        concerns = secret.server == server or secret.server not in explained.servers
        if owners and concerns and owners.isdisjoint(explained.uids):
            yield _object(OrphanKind.SECRET, secret)


def _object(kind: OrphanKind, seen: ObjectSeen) -> Suspect:
    place = (seen.namespace, seen.name)
    return Suspect(kind, _shown("/".join(place)), harmless=True, place=place, uid=seen.uid)


def _shown(name: str) -> str:
    return visible(name)[:_LONGEST_NAME]


def first_seen(
    suspects: Iterable[Suspect], earlier: Mapping[OrphanKey, datetime], now: datetime
) -> dict[OrphanKey, datetime]:
    """Since when each is unexplained; ``earlier`` is that of the look before."""
    return {suspect.key: earlier.get(suspect.key, now) for suspect in suspects}


def lasting(suspects: Iterable[Suspect], since: Mapping[OrphanKey, datetime], now: datetime) -> list[Suspect]:
    """Those that have been unexplained for longer than anything takes to be made or ended."""
    return [suspect for suspect in suspects if now - since[suspect.key] >= GRACE]


def is_complete(cached: Collection[str], listed: Collection[str]) -> bool:
    """Whether the cache has every object, by uid, that the API server lists: what it lacks may explain anything."""
    return set(listed) <= set(cached)


def orphans(suspects: Iterable[Suspect], since: Mapping[OrphanKey, datetime]) -> list[Orphan]:
    """What the status lists of them: the first by kind and name."""
    listed = sorted(suspects, key=lambda suspect: suspect.key)[:MOST_LISTED]
    # Times of the API have whole seconds.
    return [Orphan(kind=s.kind, name=s.name, since=since[s.key].replace(microsecond=0)) for s in listed]


def no_orphans(suspects: Sequence[Suspect]) -> State:
    """What NoOrphans says, given what has been unexplained for long."""
    if not suspects:
        return State(True, Reason.NO_ORPHANS, "an object explains each login, schema, rule, pass, Secret and policy")
    names = [f"{suspect.kind} {suspect.name}" for suspect in sorted(suspects, key=lambda suspect: suspect.key)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return State(
        False,
        Reason.ORPHANS_FOUND,
        f"no object explains {', '.join(names[:_SHOWN])}{more}; docs/orphans.md says what to do with each",
    )


def ended_message(names: Sequence[str]) -> str:
    """What the event says of orphans that were ended."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"ended, since no object explains it: {', '.join(names[:_SHOWN])}{more}"
