"""The firewall by nftables: a table of our own, and the sets of addresses that it lets through.

Layout (nft(8)); the table of another port than 5433 is named ``vaultbrix-<port>``::

    table inet vaultbrix
      chain input    hook input, before filter: whatever others accept, they accept later
                     tcp dport <port>                            jump guard
      chain guard    iifname lo                                  accept
                                                                 jump admit
                                                                 update @refused4 {ip saddr}, @refused6 {ip6 saddr}
                                                                 reject with tcp reset
      chain admit    ip saddr & 255.255.255.0 == @allow4_24      goto limit; a rule for each set
                     ip saddr == @trusted4_32                    accept; a rule for each set
      chain limit    SYN, add @counted4 {ip saddr ct count over} reject with tcp reset
                                                                 accept

A set of networks refuses those that overlap. So there is a set of plain addresses for each family and prefix length,
made when it is needed, and the source address is masked before it is looked up. Entries of allow* carry the kernel's
own timeout. ``accept`` ends this table only: what others refuse is still refused.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from vaultbrix.agent.host.firewall import nfnetlink
from vaultbrix.agent.host.firewall.interface import (
    CONNECTIONS_PER_ADDRESS,
    MAX_COUNTED,
    MAX_ENTRIES,
    MAX_REFUSED,
    REFUSED_SECONDS,
    VERSIONS,
    parse,
    suffix,
)
from vaultbrix.agent.host.firewall.nftlayout import (
    ALLOW,
    HOOKS,
    TRUSTED,
    Bucket,
    Chains,
    Listing,
    Rule,
    buckets_in,
    by_bucket,
    chains,
    counted,
    elements,
    is_complete,
    mark,
    objects,
)
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient

log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 30
_ABSENT = "No such file or directory"

Command = dict[str, Any]


class Nftables:
    """A ``Firewall`` made of one table for one port in this network namespace."""

    name = "nftables"

    def __init__(self, port: int, most_connections: int = CONNECTIONS_PER_ADDRESS) -> None:
        """``most_connections`` of one address; 0: no limit."""
        self._port = port
        self._most_connections = most_connections
        self._table = f"vaultbrix{suffix(port)}"
        # The sets of networks in the table; None while that is not known.
        self._buckets: set[Bucket] | None = None
        # The kernel numbers every change of anybody's rules. After this one the table was as it should be.
        self._complete_at: int | None = None

    def ensure(self) -> bool:
        """Make the table as it should be; returns whether anything was amiss.

        Sends one message to the kernel while nobody changes any rule.
        """
        generation = _generation()
        if self._complete_at == generation:
            return False
        listed = self._listed()
        self._buckets = set(buckets_in(listed))
        desired = chains(self._port, self._buckets, self._most_connections)
        if is_complete(desired, listed):
            self._complete_at = generation
            return False
        try:
            self._run(self._rebuild_commands(desired, listed))
        except Transient as error:
            if not self._most_connections:
                raise
            self._rebuild_without_limit(listed, error)
        self._complete_at = generation + 1
        return True

    def trust(self, cidrs: Iterable[str]) -> None:
        """Make the trusted sets contain exactly these CIDRs, all at once."""
        cidrs_by_bucket = by_bucket(TRUSTED, cidrs)
        emptied = [
            self._command("flush", "set", name=bucket.name) for bucket in self._known() if bucket.kind == TRUSTED
        ]
        added = [self._elements("add", bucket, members) for bucket, members in cidrs_by_bucket.items()]
        self._fill(cidrs_by_bucket, [*emptied, *added])

    def allow(self, timeouts: Mapping[str, int]) -> None:
        """Add each CIDR for so many seconds, or replace the time that it has left.

        Most kernels change the time of an element only if it is deleted first, and a deletion costs 10 ms. So only
        those that are in a set now are deleted.
        """
        cidrs_by_bucket = by_bucket(ALLOW, timeouts)
        present = by_bucket(ALLOW, timeouts.keys() - self.missing(timeouts))
        deleted = self._delete_commands(present)
        added = [self._elements("add", bucket, cidrs, timeouts) for bucket, cidrs in cidrs_by_bucket.items()]
        self._fill(cidrs_by_bucket, [*deleted, *added])

    def deny(self, cidrs: Iterable[str]) -> None:
        """Remove these CIDRs; one that is not let through is no error."""
        in_known_sets = {b: members for b, members in by_bucket(ALLOW, cidrs).items() if b in self._known()}
        self._commit(self._delete_commands(in_known_sets))

    def allowed(self) -> dict[str, int]:
        """Return every CIDR that is let through until a deadline, with its seconds left."""
        return {
            f"{address}/{bucket.length}": left
            for bucket, left_by_address in buckets_in(self._listed(terse=False)).items()
            if bucket.kind == ALLOW
            for address, left in left_by_address.items()
        }

    def missing(self, cidrs: Iterable[str]) -> set[str]:
        """Return those of the CIDRs that have no element of their own, even if a larger network lets them through."""
        queried = [(cidr, bucket.name) for bucket, members in by_bucket(ALLOW, cidrs).items() for cidr in members]
        try:
            present = nfnetlink.present(self._table, [(name, parse(cidr)[1]) for cidr, name in queried])
        except OSError as error:
            raise _failed(error.strerror or str(error)) from None
        return {cidr for (cidr, _), is_present in zip(queried, present, strict=True) if not is_present}

    def refused(self) -> list[str]:
        """Return the addresses that were refused in the last hour, the latest first."""
        left: dict[str, int] = {}
        for version in VERSIONS:
            for listed_set in objects(self._run([self._command("list", "set", name=f"refused{version}")]), "set"):
                left |= elements(listed_set)
        return sorted(left, key=lambda address: -left[address])

    def remove(self) -> None:
        """Remove the table. It is added first, since to delete one that does not exist is an error."""
        table = {"table": {"family": "inet", "name": self._table}}
        self._run([{"add": table}, {"delete": table}])
        self._buckets = self._complete_at = None

    def _known(self) -> set[Bucket]:
        if self._buckets is None:
            self._buckets = set(buckets_in(self._listed()))
        return self._buckets

    def _fill(self, buckets: Iterable[Bucket], commands: list[Command]) -> None:
        """Run commands about elements of these sets; a set that is missing is created first, with its rule."""
        needed = self._known() | set(buckets)
        new = needed - self._known()
        creation = [self._set(bucket.name, bucket.version, MAX_ENTRIES) for bucket in new]
        if new:
            creation.append(self._command("flush", "chain", name="admit"))
            creation += [
                self._rule("admit", rule) for rule in chains(self._port, needed, self._most_connections)["admit"]
            ]
        self._commit([*creation, *commands])
        self._buckets = needed

    def _commit(self, commands: list[Command]) -> None:
        """Run the commands as one transaction.

        If the table was complete, and nobody else changed a rule meanwhile, it is still complete.
        """
        if not commands:
            return
        before, complete_at = _generation(), self._complete_at
        self._complete_at = None
        self._run(commands)
        self._complete_at = before + 1 if complete_at == before else None

    def _rebuild_without_limit(self, listed: Listing, cause: Transient) -> None:
        """Who is let in matters more than how often; the error is raised if it was not for the limit."""
        limit, self._most_connections = self._most_connections, 0
        try:
            self._run(self._rebuild_commands(chains(self._port, self._known(), 0), listed))
        except BaseException:
            self._most_connections = limit
            raise
        log.warning("connections per address are not limited: needs nft_connlimit", message=cause.message)

    def _rebuild_commands(self, desired: Chains, listed: Listing) -> list[Command]:
        """Commands that replace all chains and rules, and keep the sets with what is in them."""
        old_chains = [chain["name"] for chain in objects(listed, "chain")]
        refused = {f"refused{version}": version for version in VERSIONS}
        counting = {counted(version): version for version in VERSIONS if self._most_connections}
        # The kernel has marked the sets that a rule adds to, and takes an `add` without that mark for another set.
        for present in objects(listed, "set"):
            refused.pop(present["name"], None)
            counting.pop(present["name"], None)
        return [
            {"add": {"table": {"family": "inet", "name": self._table}}},
            *(self._command("flush", "chain", name=name) for name in old_chains),
            *(self._command("delete", "chain", name=name) for name in old_chains),
            *(self._set(name, version, MAX_REFUSED, timeout=REFUSED_SECONDS) for name, version in refused.items()),
            *(self._set(name, version, MAX_COUNTED, flags=[]) for name, version in counting.items()),
            *(self._command("add", "chain", name=name, **HOOKS.get(name, {})) for name in desired),
            *(self._rule(name, rule) for name, rules in desired.items() for rule in rules),
        ]

    def _set(self, name: str, version: int, size: int, **more: Any) -> Command:
        options = {"flags": ["timeout"], **more}
        return self._command("add", "set", name=name, type=f"ipv{version}_addr", size=size, **options)

    def _rule(self, chain: str, rule: Rule) -> Command:
        return self._command("add", "rule", chain=chain, expr=rule, comment=mark(rule))

    def _elements(
        self, verb: str, bucket: Bucket, cidrs: Iterable[str], timeouts: Mapping[str, int] | None = None
    ) -> Command:
        entries: list[Any] = []
        for cidr in cidrs:
            address = cidr.partition("/")[0]
            entries.append({"elem": {"val": address, "timeout": timeouts[cidr]}} if timeouts else address)
        return self._command(verb, "element", name=bucket.name, elem=entries)

    def _delete_commands(self, cidrs_by_bucket: Mapping[Bucket, Iterable[str]]) -> list[Command]:
        """Commands that delete elements. Each is added first, since to delete one that does not exist is an error."""
        return [self._elements(verb, b, cidrs) for b, cidrs in cidrs_by_bucket.items() for verb in ("add", "delete")]

    def _command(self, verb: str, what: str, **fields: Any) -> Command:
        return {verb: {what: {"family": "inet", "table": self._table, **fields}}}

    def _listed(self, *, terse: bool = True) -> Listing:
        command = {"list": {"table": {"family": "inet", "name": self._table}}}
        return self._run([command], *(["--terse"] if terse else []), absent_is_empty=True)

    def _run(self, commands: list[Command], *options: str, absent_is_empty: bool = False) -> Listing:
        program = shutil.which("nft")
        if program is None:
            raise _failed("there is no program nft")
        try:
            done = subprocess.run(
                [program, "--json", *options, "--file", "-"],
                input=json.dumps({"nftables": commands}),
                capture_output=True,
                text=True,
                env={"LC_ALL": "C"},
                timeout=_PATIENCE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(str(error)) from None
        if done.returncode == 0:
            listed: Listing = json.loads(done.stdout)["nftables"] if done.stdout else []
            return listed
        if absent_is_empty and _ABSENT in done.stderr:
            return []
        cause = done.stderr.strip().partition("\n")[0].rpartition("Error: ")[2]
        raise _failed(cause or f"nft ended with {done.returncode}")


def _generation() -> int:
    try:
        return nfnetlink.generation()
    except OSError as error:
        raise _failed(error.strerror or str(error)) from None


def _failed(cause: str) -> Transient:
    return Transient(
        Reason.KERNEL_FAILED,
        f"nftables: {cause}; needs NET_ADMIN, the program nft, and nf_tables with nft_reject_inet in the kernel",
    )
