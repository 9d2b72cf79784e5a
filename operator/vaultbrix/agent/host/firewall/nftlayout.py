"""Our nftables table as JSON that nft(8) reads and lists (libnftables-json(5)): its chains, rules and sets. Pure."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from vaultbrix.agent.host.firewall.interface import COUNTED_LENGTHS, VERSIONS, parse

ALLOW, TRUSTED = "allow", "trusted"

# The chains that the kernel sends packets to. The priority of others' filter chains is 0; the lower goes first.
HOOKS = {"input": {"type": "filter", "hook": "input", "prio": -10, "policy": "accept"}}

_PROTOCOLS = {4: "ip", 6: "ip6"}
_NETWORKS: dict[int, type[IPv4Network] | type[IPv6Network]] = {4: IPv4Network, 6: IPv6Network}

# nft's objects as it lists them, each under its kind; a rule is a list of expressions.
Listing = list[dict[str, Any]]
Rule = list[Any]
Chains = Mapping[str, list[Rule]]


@dataclass(frozen=True, order=True)
class Bucket:
    """Names the set of all networks of one kind (ALLOW or TRUSTED), IP version and prefix length.

    An element of the set is a network's first address.
    """

    kind: str
    version: int
    length: int

    @property
    def name(self) -> str:
        """Name of the set."""
        return f"{self.kind}{self.version}_{self.length}"

    def admission(self) -> Rule:
        """The rule for a packet whose source address, masked to the prefix length, is in the set.

        A trusted one is accepted; an allowed one goes on to the limit of connections.
        """
        every = _NETWORKS[self.version]((0, self.length))
        source = _source(self.version)
        masked = source if self.length == every.max_prefixlen else {"&": [source, str(every.netmask)]}
        verdict = {"accept": None} if self.kind == TRUSTED else {"goto": {"target": "limit"}}
        return [_equal(masked, f"@{self.name}"), verdict]


def by_bucket(kind: str, cidrs: Iterable[str]) -> dict[Bucket, list[str]]:
    """Group CIDRs by the set that they belong into."""
    grouped: dict[tuple[int, int], list[str]] = {}
    for cidr in cidrs:
        version, _, length = parse(cidr)
        grouped.setdefault((version, length), []).append(cidr)
    return {Bucket(kind, *version_and_length): members for version_and_length, members in grouped.items()}


def buckets_in(listed: Listing) -> dict[Bucket, dict[str, int]]:
    """Return the sets of networks in a listing, each with its addresses and their seconds left, 0 for ever."""
    buckets = {}
    for listed_set in objects(listed, "set"):
        name = re.fullmatch(rf"({ALLOW}|{TRUSTED})([46])_(\d+)", listed_set["name"])
        if name:
            buckets[Bucket(name[1], int(name[2]), int(name[3]))] = elements(listed_set)
    return buckets


def elements(listed_set: Mapping[str, Any]) -> dict[str, int]:
    """Return the addresses in a listed set, each with its seconds left, 0 for ever."""
    left_by_address = {}
    for element in listed_set.get("elem", []):
        entry = element["elem"] if isinstance(element, dict) else {"val": element}
        left_by_address[entry["val"]] = entry.get("expires", 0)
    return left_by_address


def objects(listed: Listing, kind: str) -> list[dict[str, Any]]:
    """Return all objects of a kind ("chain", "rule", "set") in a listing, in its order."""
    return [listed_object[kind] for listed_object in listed if kind in listed_object]


def counted(version: int) -> str:
    """Name of the set in which the kernel counts connections by source address."""
    return f"counted{version}"


def chains(port: int, buckets: Iterable[Bucket], most_connections: int) -> Chains:
    """Return every chain that the table should have with its rules; a chain comes before those that jump to it.

    ``most_connections`` of one source address, in IPv6 of one network of ``COUNTED_LENGTHS``; 0: no limit.
    """
    return {
        "limit": [*(_limit(v, most_connections) for v in VERSIONS if most_connections), [{"accept": None}]],
        "admit": [bucket.admission() for bucket in sorted(buckets)],
        "guard": [
            [_equal({"meta": {"key": "iifname"}}, "lo"), {"accept": None}],
            [{"jump": {"target": "admit"}}],
            *([{"set": {"op": "update", "elem": _source(v), "set": f"@refused{v}"}}] for v in VERSIONS),
            [{"reject": {"type": "tcp reset"}}],
        ],
        "input": [[_equal({"payload": {"protocol": "tcp", "field": "dport"}}, port), {"jump": {"target": "guard"}}]],
    }


def mark(rule: Rule) -> str:
    """Return the comment that identifies a rule, since versions of nft list the same rule in different forms."""
    return f"vaultbrix {hashlib.sha256(json.dumps(rule).encode()).hexdigest()[:16]}"


def is_complete(desired: Chains, listed: Listing) -> bool:
    """Whether a listing has exactly these chains, with their hooks and rules."""
    hooks = {
        chain["name"]: {key: chain[key] for key in HOOKS["input"] if key in chain} for chain in objects(listed, "chain")
    }
    marks: dict[str, list[str]] = {name: [] for name in hooks}
    for rule in objects(listed, "rule"):
        marks[rule["chain"]].append(rule.get("comment", ""))
    return hooks == {name: HOOKS.get(name, {}) for name in desired} and marks == {
        name: [mark(rule) for rule in rules] for name, rules in desired.items()
    }


def _equal(left: Any, right: Any) -> Any:
    return {"match": {"op": "==", "left": left, "right": right}}


def _limit(version: int, most_connections: int) -> Rule:
    flags = {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]}
    network = _NETWORKS[version]((0, COUNTED_LENGTHS[version]))
    source = _source(version)
    key = source if network.prefixlen == network.max_prefixlen else {"&": [source, str(network.netmask)]}
    count = {"ct count": {"val": most_connections, "inv": True}}
    return [
        _equal(flags, "syn"),
        {"set": {"op": "add", "elem": key, "set": f"@{counted(version)}", "stmt": [count]}},
        {"reject": {"type": "tcp reset"}},
    ]


def _source(version: int) -> Any:
    return {"payload": {"protocol": _PROTOCOLS[version], "field": "saddr"}}
