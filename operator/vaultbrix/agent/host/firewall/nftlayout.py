"""What the table of nftables looks like, as JSON that nft(8) reads and lists (libnftables-json(5)). No I/O."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from vaultbrix.agent.host.firewall.interface import VERSIONS, parse

ALLOW, TRUSTED = "allow", "trusted"

# What makes a chain one that packets come to. Filter's priority is 0, and the lower goes first.
HOOKS = {"input": {"type": "filter", "hook": "input", "prio": -10, "policy": "accept"}}

_PROTOCOLS = {4: "ip", 6: "ip6"}
_NETWORKS: dict[int, type[IPv4Network] | type[IPv6Network]] = {4: IPv4Network, 6: IPv6Network}

# nft's objects as it lists them, each under its kind; a rule is a list of expressions.
Listing = list[dict[str, Any]]
Rule = list[Any]
Chains = Mapping[str, list[Rule]]


@dataclass(frozen=True, order=True)
class Bucket:
    """The set of all networks of one kind, family and prefix length, by their first address."""

    kind: str
    version: int
    length: int

    @property
    def name(self) -> str:
        """Name of the set."""
        return f"{self.kind}{self.version}_{self.length}"

    def admission(self) -> Rule:
        """Let those through whose address, masked, is in the set."""
        every = _NETWORKS[self.version]((0, self.length))
        source = _source(self.version)
        masked = source if self.length == every.max_prefixlen else {"&": [source, str(every.netmask)]}
        return [_equal(masked, f"@{self.name}"), {"accept": None}]


def by_bucket(kind: str, cidrs: Iterable[str]) -> dict[Bucket, list[str]]:
    """The CIDRs of each set."""
    found: dict[tuple[int, int], list[str]] = {}
    for cidr in cidrs:
        version, _, length = parse(cidr)
        found.setdefault((version, length), []).append(cidr)
    return {Bucket(kind, *key): mine for key, mine in found.items()}


def buckets_in(listed: Listing) -> dict[Bucket, dict[str, int]]:
    """The sets of networks in a listing, with what is in them: address → seconds left, 0 for ever."""
    found = {}
    for listed_set in objects(listed, "set"):
        name = re.fullmatch(rf"({ALLOW}|{TRUSTED})([46])_(\d+)", listed_set["name"])
        if name:
            found[Bucket(name[1], int(name[2]), int(name[3]))] = elements(listed_set)
    return found


def elements(listed_set: Mapping[str, Any]) -> dict[str, int]:
    """Address → seconds left, 0 for ever."""
    found = {}
    for element in listed_set.get("elem", []):
        entry = element["elem"] if isinstance(element, dict) else {"val": element}
        found[entry["val"]] = entry.get("expires", 0)
    return found


def objects(listed: Listing, kind: str) -> list[dict[str, Any]]:
    """All objects of a kind, in order."""
    return [found[kind] for found in listed if kind in found]


def chains(port: int, buckets: Iterable[Bucket]) -> Chains:
    """Every chain with its rules; what is jumped to comes first."""
    return {
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
    """A rule's comment: tells it from any other, in whatever form this version of nft lists what the rule does."""
    return f"vaultbrix {hashlib.sha256(json.dumps(rule).encode()).hexdigest()[:16]}"


def stands(wanted: Chains, listed: Listing) -> bool:
    """Whether these chains are there, with their hooks and rules, and no other."""
    hooks = {
        chain["name"]: {key: chain[key] for key in HOOKS["input"] if key in chain} for chain in objects(listed, "chain")
    }
    marks: dict[str, list[str]] = {name: [] for name in hooks}
    for rule in objects(listed, "rule"):
        marks[rule["chain"]].append(rule.get("comment", ""))
    return hooks == {name: HOOKS.get(name, {}) for name in wanted} and marks == {
        name: [mark(rule) for rule in rules] for name, rules in wanted.items()
    }


def _equal(left: Any, right: Any) -> Any:
    return {"match": {"op": "==", "left": left, "right": right}}


def _source(version: int) -> Any:
    return {"payload": {"protocol": _PROTOCOLS[version], "field": "saddr"}}
