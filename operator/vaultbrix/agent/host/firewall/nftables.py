"""The kernel's part by nftables: a table of our own, and the sets of addresses that it lets through.

Layout (nft(8)); the table of another port than 5433 is named ``vaultbrix-<port>``::

    table inet vaultbrix
      chain input    hook input, before filter: whatever others accept, they accept later
                     tcp dport <port>                            jump guard
      chain guard    iifname lo                                  accept
                                                                 jump admit
                                                                 update @refused4 {ip saddr}, @refused6 {ip6 saddr}
                                                                 reject with tcp reset
      chain admit    ip saddr & 255.255.255.0 == @allow4_24      accept; a rule for each set

A set of networks refuses those that overlap. So there is a set of plain addresses for each family and prefix length,
made when it is needed, and the source address is masked before it is looked up. Entries of allow* carry the kernel's
own timeout. ``accept`` ends this table only: what others refuse is still refused.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from vaultbrix.agent.host.firewall import nfnetlink
from vaultbrix.agent.host.firewall.interface import MAX_ENTRIES, MAX_REFUSED, REFUSED_SECONDS, VERSIONS, parse, suffix
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
    elements,
    mark,
    objects,
    stands,
)
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient

_PATIENCE_SECONDS = 30
_ABSENT = "No such file or directory"

Command = dict[str, Any]


class Nftables:
    """Table of one port in this network namespace; a ``Firewall``."""

    name = "nftables"

    def __init__(self, port: int) -> None:
        self._port = port
        self._table = f"vaultbrix{suffix(port)}"
        # The sets that there are; None: not known yet.
        self._buckets: set[Bucket] | None = None
        # The kernel numbers every change of anybody's rules. At this one the table was as it should be.
        self._stood_at: int | None = None

    def ensure(self) -> bool:
        """The table as it should be; one message to the kernel while nobody changes any rule."""
        generation = _generation()
        if self._stood_at == generation:
            return False
        listed = self._listed()
        self._buckets = set(buckets_in(listed))
        wanted = chains(self._port, self._buckets)
        if stands(wanted, listed):
            self._stood_at = generation
            return False
        self._run(self._rebuilding(wanted, listed))
        self._stood_at = generation + 1
        return True

    def trust(self, cidrs: Iterable[str]) -> None:
        """Make the trusted sets hold exactly these, all at once."""
        wanted = by_bucket(TRUSTED, cidrs)
        emptied = [
            self._command("flush", "set", name=bucket.name) for bucket in self._known() if bucket.kind == TRUSTED
        ]
        added = [self._elements("add", bucket, mine) for bucket, mine in wanted.items()]
        self._fill(wanted, [*emptied, *added])

    def allow(self, wanted: Mapping[str, int]) -> None:
        """Add, or replace the time that is left.

        Most kernels leave that of an element as it is unless the element is deleted, and to delete costs 10 ms.
        """
        buckets = by_bucket(ALLOW, wanted)
        present = by_bucket(ALLOW, wanted.keys() - self.missing(wanted))
        replaced = [self._elements(verb, b, mine) for b, mine in present.items() for verb in ("add", "delete")]
        added = [self._elements("add", bucket, mine, wanted) for bucket, mine in buckets.items()]
        self._fill(buckets, [*replaced, *added])

    def deny(self, cidrs: Iterable[str]) -> None:
        """Take out; what is not there is added first, since only what is there can be deleted."""
        there = {bucket: mine for bucket, mine in by_bucket(ALLOW, cidrs).items() if bucket in self._known()}
        self._commit([self._elements(verb, b, mine) for b, mine in there.items() for verb in ("add", "delete")])

    def allowed(self) -> dict[str, int]:
        """CIDR → seconds left."""
        return {
            f"{address}/{bucket.length}": left
            for bucket, found in buckets_in(self._listed(terse=False)).items()
            if bucket.kind == ALLOW
            for address, left in found.items()
        }

    def missing(self, cidrs: Iterable[str]) -> set[str]:
        """Each by its own entry."""
        asked = [(cidr, bucket.name) for bucket, mine in by_bucket(ALLOW, cidrs).items() for cidr in mine]
        try:
            present = nfnetlink.present(self._table, [(name, parse(cidr)[1]) for cidr, name in asked])
        except OSError as error:
            raise _failed(error.strerror or str(error)) from None
        return {cidr for (cidr, _), there in zip(asked, present, strict=True) if not there}

    def refused(self) -> list[str]:
        """Addresses, the latest first."""
        left: dict[str, int] = {}
        for version in VERSIONS:
            for found in objects(self._run([self._command("list", "set", name=f"refused{version}")]), "set"):
                left |= elements(found)
        return sorted(left, key=lambda address: -left[address])

    def remove(self) -> None:
        """The table. One that is not there is added first, since only what is there can be deleted."""
        table = {"table": {"family": "inet", "name": self._table}}
        self._run([{"add": table}, {"delete": table}])
        self._buckets = self._stood_at = None

    def _known(self) -> set[Bucket]:
        if self._buckets is None:
            self._buckets = set(buckets_in(self._listed()))
        return self._buckets

    def _fill(self, buckets: Iterable[Bucket], commands: list[Command]) -> None:
        wanted = self._known() | set(buckets)
        new = wanted - self._known()
        made = [self._set(bucket.name, bucket.version, MAX_ENTRIES) for bucket in new]
        if new:
            made.append(self._command("flush", "chain", name="admit"))
            made += [self._rule("admit", rule) for rule in chains(self._port, wanted)["admit"]]
        self._commit([*made, *commands])
        self._buckets = wanted

    def _commit(self, commands: list[Command]) -> None:
        """Run as one transaction. If the table stood, and nobody else changed a rule meanwhile, it still stands."""
        if not commands:
            return
        before, stood_at = _generation(), self._stood_at
        self._stood_at = None
        self._run(commands)
        self._stood_at = before + 1 if stood_at == before else None

    def _rebuilding(self, wanted: Chains, listed: Listing) -> list[Command]:
        """Sets stay with what is in them; chains and rules are made anew."""
        old = [chain["name"] for chain in objects(listed, "chain")]
        sets = {f"refused{version}": version for version in VERSIONS}
        # The kernel has marked those that a rule adds to, and takes none for the same without that mark.
        for present in objects(listed, "set"):
            sets.pop(present["name"], None)
        return [
            {"add": {"table": {"family": "inet", "name": self._table}}},
            *(self._command("flush", "chain", name=name) for name in old),
            *(self._command("delete", "chain", name=name) for name in old),
            *(self._set(name, version, MAX_REFUSED, timeout=REFUSED_SECONDS) for name, version in sets.items()),
            *(self._command("add", "chain", name=name, **HOOKS.get(name, {})) for name in wanted),
            *(self._rule(name, rule) for name, rules in wanted.items() for rule in rules),
        ]

    def _set(self, name: str, version: int, size: int, **more: Any) -> Command:
        return self._command("add", "set", name=name, type=f"ipv{version}_addr", size=size, flags=["timeout"], **more)

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
        said = done.stderr.strip().partition("\n")[0].rpartition("Error: ")[2]
        raise _failed(said or f"nft ended with {done.returncode}")


def _generation() -> int:
    try:
        return nfnetlink.generation()
    except OSError as error:
        raise _failed(error.strerror or str(error)) from None


def _failed(said: str) -> Transient:
    return Transient(
        Reason.KERNEL_FAILED,
        f"nftables: {said}; needs NET_ADMIN, the program nft, and nf_tables with nft_reject_inet in the kernel",
    )
