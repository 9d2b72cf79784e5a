"""The table of nftables: what is listed is compared with what it should be, and any difference is seen."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.agent.host.firewall import LONGEST_TIMEOUT, timeout_for
from vaultbrix.agent.host.firewall.nftlayout import (
    HOOKS,
    Bucket,
    Chains,
    buckets_in,
    by_bucket,
    chains,
    is_complete,
    mark,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BUCKETS = st.sets(
    st.one_of(
        st.builds(Bucket, st.sampled_from(["allow", "trusted"]), st.just(4), st.integers(1, 32)),
        st.builds(Bucket, st.sampled_from(["allow", "trusted"]), st.just(6), st.integers(1, 128)),
    ),
    max_size=6,
)


def listed(desired: Chains, buckets: Iterable[Bucket] = ()) -> list[dict[str, Any]]:
    """As nft lists it: with handles, and rules after all chains."""
    return [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "vaultbrix", "handle": 1}},
        {"set": {"name": "refused4", "type": "ipv4_addr", "elem": [{"elem": {"val": "192.0.2.1", "expires": 3}}]}},
        *(
            {"set": {"name": b.name, "elem": ["192.0.2.0", {"elem": {"val": "10.0.0.0", "expires": 9}}]}}
            for b in buckets
        ),
        *({"chain": {"name": name, "handle": 5, **HOOKS.get(name, {})}} for name in desired),
        *(
            {"rule": {"chain": name, "handle": 9, "comment": mark(rule), "expr": rule}}
            for name, rules in desired.items()
            for rule in rules
        ),
    ]


@given(BUCKETS)
def test_a_table_that_is_as_wanted_stands(buckets: set[Bucket]) -> None:
    desired = chains(5433, buckets, 100)
    listing = listed(desired, buckets)
    assert is_complete(desired, listing)
    assert buckets_in(listing) == {key: {"192.0.2.0": 0, "10.0.0.0": 9} for key in buckets}


@given(BUCKETS, st.data())
def test_a_table_that_lacks_anything_or_has_more_does_not_stand(buckets: set[Bucket], data: st.DataObject) -> None:
    desired = chains(5433, buckets, 100)
    listing = [entry for entry in listed(desired) if "chain" in entry or "rule" in entry]
    number = data.draw(st.integers(0, len(listing) - 1))
    damage = data.draw(st.sampled_from(["lost", "doubled", "changed"]))
    entry = listing[number]
    if damage == "lost":
        listing = [
            other for other in listing if other is not entry and other.get("rule", {}).get("chain") != _name(entry)
        ]
    elif damage == "doubled" and "rule" in entry:
        listing.insert(number, entry)
    elif "rule" in entry:
        listing[number] = {"rule": {"chain": entry["rule"]["chain"], "expr": [{"accept": None}]}}
    else:
        listing[number] = {
            "chain": {**entry["chain"], "type": "filter", "hook": "input", "prio": 5, "policy": "accept"}
        }
    assert not is_complete(desired, listing)


def _name(entry: dict[str, Any]) -> str:
    return str(entry["chain"]["name"]) if "chain" in entry else ""


def test_another_port_or_another_set_is_another_table() -> None:
    bucket = Bucket("allow", 4, 24)
    assert not is_complete(chains(5433, [bucket], 100), listed(chains(5434, [bucket], 100)))
    assert not is_complete(chains(5433, [bucket], 100), listed(chains(5433, [], 100)))
    assert not is_complete(chains(5433, [bucket], 100), listed(chains(5433, [bucket], 99)))


@given(st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), max_size=20), st.integers(1, 32))
def test_every_network_is_in_the_set_of_its_length(addresses: list[Any], length: int) -> None:
    cidrs = {str(ip_network((address, length), strict=False)) for address in addresses}
    grouped = by_bucket("allow", cidrs)
    assert {cidr for members in grouped.values() for cidr in members} == cidrs
    for bucket, members in grouped.items():
        assert {(n.version, n.prefixlen) for n in map(ip_network, members)} == {(bucket.version, bucket.length)}


@pytest.mark.parametrize(
    ("bucket", "mask", "expected"),
    [
        (Bucket("allow", 4, 7), "254.0.0.0", {"goto": {"target": "limit"}}),
        (Bucket("allow", 6, 57), "ffff:ffff:ffff:ff80::", {"goto": {"target": "limit"}}),
        (Bucket("allow", 4, 32), None, {"goto": {"target": "limit"}}),
        (Bucket("trusted", 4, 32), None, {"accept": None}),
    ],
)
def test_a_source_is_masked_to_the_length_of_the_set(bucket: Bucket, mask: str | None, expected: object) -> None:
    match, verdict = bucket.admission()
    assert match["match"]["right"] == f"@{bucket.name}"
    assert match["match"]["left"].get("&", [None, None])[1] == mask
    assert verdict == expected


@given(st.floats(-1e7, 1e7))
def test_the_kernel_is_never_early_and_never_for_ever(seconds: float) -> None:
    timeout = timeout_for(NOW + timedelta(seconds=seconds), NOW)
    assert 1 <= timeout <= LONGEST_TIMEOUT
    assert timeout >= min(seconds, LONGEST_TIMEOUT)
