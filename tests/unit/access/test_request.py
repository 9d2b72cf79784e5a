from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND, rule, server, tenant

from vaultbrix.access.decisions import decide
from vaultbrix.access.request import (
    Life,
    access_rule,
    check_limits,
    extension,
    parse_ip,
    parse_life,
)
from vaultbrix.access.terms import deadline_of
from vaultbrix.api.accessrule import AccessPhase, AccessRule, RuleLogin
from vaultbrix.api.meta import rfc3339
from vaultbrix.runtime.cidrs import parse_cidr, parse_cidrs
from vaultbrix.runtime.usage import Misused, Refused, check_name, check_texts, parse_span, parse_time


@pytest.mark.parametrize(
    ("text", "cidr"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("203.0.113.7/32", "203.0.113.7/32"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("2001:DB8::7", "2001:db8::7/128"),
        ("2001:0db8:0000::/64", "2001:db8::/64"),
    ],
)
def test_an_address_or_network_is_taken_in_canonical_form(text: str, cidr: str) -> None:
    assert parse_cidr(text) == cidr


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("203.0.113.7/24", "write 203.0.113.0/24 for the whole network, or 203.0.113.7/32"),
        ("2001:db8::7/64", "write 2001:db8::/64 for the whole network, or 2001:db8::7/128"),
        ("::ffff:203.0.113.7", "write 203.0.113.7/32"),
        ("::ffff:203.0.113.0/120", "write 203.0.113.0/24"),
        ("0.0.0.0/0", "name the addresses"),
        ("::/0", "name the addresses"),
        ("203.0.113.7/255.255.255.255", "prefix length"),
        ("203.0.113.7/", "prefix length"),
        ("203.0.113.7/33", "not an address"),
        ("203.0.113.07", "not an address"),
        ("203.0.113", "not an address"),
        ("fe80::1%eth0", "not an address"),
        ("3405803783", "not an address"),
        (" 203.0.113.7", "not an address"),
        ("203.0.113.7\n", "not an address"),
        ("203.0.113.7 203.0.113.8", "not an address"),
        ("db.example.com", "not an address"),
        ("", "not an address"),
    ],
)
def test_anything_else_is_refused_with_the_option_and_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(Misused) as caught:
        parse_cidr(text)
    assert str(caught.value).startswith(f"--cidr {text}")
    assert remedy in str(caught.value)


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(ADDRESSES, st.integers(min_value=0, max_value=128))
def test_what_is_accepted_is_what_the_api_accepts_and_covers_no_more_than_was_written(
    address: IPv4Address | IPv6Address, prefix: int
) -> None:
    text = f"{address}/{prefix}"
    try:
        cidr = parse_cidr(text)
    except Misused:
        return
    network = ip_network(cidr)
    assert str(network) == cidr
    assert (network.network_address, network.prefixlen) == (address, prefix)
    assert prefix > 0


@given(ADDRESSES)
def test_every_address_stands_for_itself_unless_it_is_another_in_disguise(address: IPv4Address | IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        with pytest.raises(Misused, match=str(mapped)):
            parse_cidr(str(address))
    else:
        assert parse_cidr(str(address)) == f"{address}/{address.max_prefixlen}"
    assert parse_ip(str(address)) == (mapped or address)


@given(st.text(max_size=50))
def test_no_text_is_more_than_refused(text: str) -> None:
    for parse in (parse_cidr, parse_ip):
        try:
            parse(text)
        except Misused:
            pass


def test_one_that_is_given_twice_in_other_words_is_named() -> None:
    with pytest.raises(Misused, match="2001:db8::0007: given twice, 2001:DB8::7 is the same"):
        parse_cidrs(["203.0.113.7", "2001:DB8::7", "2001:db8::0007"], holder="rule")


@pytest.mark.parametrize("count", [0, 33])
def test_a_rule_names_one_to_32(count: int) -> None:
    with pytest.raises(Misused, match="1 to 32"):
        parse_cidrs([f"203.0.113.{n}" for n in range(count)], holder="rule")
    assert len(parse_cidrs([f"203.0.113.{n}" for n in range(32)], holder="rule")) == 32


@pytest.mark.parametrize("text", ["2026-12-01T18:00:00Z", "2026-12-01T19:00:00+01:00", "2026-12-01 18:00:00.9+00:00"])
def test_a_time_is_a_moment_in_whole_seconds(text: str) -> None:
    assert parse_time("--until", text) == NOW + 6 * HOUR


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2026-12-01T18:00:00", "time zone"),
        ("2026-12-01", "time zone"),
        ("tomorrow", "not a time"),
        ("", "not a time"),
        ("9999-12-31T23:59:59-23:00", "not a time"),
        ("0001-01-01T00:00:00+23:00", "not a time"),
    ],
)
def test_a_time_without_its_zone_is_no_moment(text: str, says: str) -> None:
    with pytest.raises(Misused) as caught:
        parse_time("--until", text)
    assert str(caught.value).startswith(f"--until {text}")
    assert says in str(caught.value)


def test_a_life_has_one_end() -> None:
    assert parse_life("2h", None, None, NOW) == Life(2 * HOUR, None)
    assert parse_life(None, "2026-12-01T18:00:00Z", None, NOW) == Life(None, NOW + 6 * HOUR)
    later = parse_life("2h", None, "2026-12-01T18:00:00Z", NOW)
    assert later == Life(2 * HOUR, None, NOW + 6 * HOUR)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((None, None, None), "exactly one of --for"),
        (("1h", "2026-12-01T18:00:00Z", None), "exactly one of --for"),
        (("0s", None, None), "at least 1s"),
        (("1w", None, None), "--for 1w: expected a duration"),
        ((None, "2026-12-01T12:00:00Z", None), "--until .*has passed"),
        (("1h", None, "2026-12-01T11:00:00Z"), "--from .*has passed"),
        ((None, "2026-12-01T13:00:00Z", "2026-12-01T13:00:00Z"), "not after --from"),
    ],
    ids=str,
)
def test_a_life_that_cannot_be_names_the_option(words: tuple[str | None, str | None, str | None], says: str) -> None:
    with pytest.raises(Misused, match=says):
        parse_life(*words, NOW)


@pytest.mark.parametrize("name", ["a", "jane-laptop", "a.b", "0"])
def test_a_name_that_the_api_takes_is_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["A", "-a", "a-", "a b", "a/b", "a\n", "a" * 254, "\N{CYRILLIC SMALL LETTER A}"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(Misused, match="--name"):
        check_name(name)


@pytest.mark.parametrize(
    ("reason", "person", "says"),
    [
        (" ", "jane", "--reason"),
        ("x" * 1025, "jane", "--reason: has 1025"),
        ("x", "", "--requested-by"),
        ("x", "two words", "--requested-by"),
        ("x", "j" * 257, "--requested-by"),
    ],
)
def test_record_and_person_are_asked_for(reason: str, person: str, says: str) -> None:
    with pytest.raises(Misused, match=says):
        check_texts(reason, person)


def wanted(*cidrs: str, life: Life = Life(HOUR, None), **changes: Any) -> dict[str, Any]:  # noqa: B008
    values: dict[str, Any] = {
        "reason": "CHG-1",
        "requested_by": "jane",
        "login": RuleLogin.TENANT,
        **changes,
    }
    return access_rule("team", "", "acme", cidrs=cidrs or ["203.0.113.7/32"], life=life, **values)


def test_the_object_says_what_was_asked_for_and_nothing_else() -> None:
    assert wanted(life=Life(90 * MINUTE, None, NOW + HOUR), login=RuleLogin.PER_RULE) == {
        "apiVersion": "vaultbrix.com/v1alpha1",
        "kind": "AccessRule",
        "metadata": {"namespace": "team", "generateName": "acme-"},
        "spec": {
            "tenantRef": {"name": "acme"},
            "cidrs": ["203.0.113.7/32"],
            "reason": "CHG-1",
            "requestedBy": "jane",
            "login": "PerRule",
            "ttl": "1h30m",
            "startsAt": "2026-12-01T13:00:00Z",
        },
    }
    assert wanted(life=Life(None, NOW + HOUR))["spec"]["expiresAt"] == "2026-12-01T13:00:00Z"


@pytest.mark.parametrize(
    ("body", "limits", "says"),
    [
        (wanted("10.0.0.0/23"), {}, "--cidr 10.0.0.0/23: wider than /24"),
        (wanted("2001:db8::/63"), {}, "minPrefixV6"),
        (wanted(life=Life(169 * HOUR, None)), {}, "--for: a rule may last 168h"),
        (wanted(life=Life(None, NOW + 169 * HOUR)), {}, "--until: a rule may last 168h"),
        (wanted(life=Life(2 * HOUR, None, NOW + HOUR)), {"maxTTL": "1h"}, "here until 2026-12-01T14:00:00Z"),
        (wanted(), {"maxRulesPerTenant": 2}, "maxRulesPerTenant"),
    ],
    ids=str,
)
def test_what_is_beyond_the_limits_names_limit_and_remedy(body: dict[str, Any], limits: Any, says: str) -> None:
    others = [rule("one"), rule("two"), rule("old", revoked=True)]
    with pytest.raises(Refused) as caught:
        check_limits(body, others, tenant(), server(limits=limits), NOW)
    assert says in str(caught.value)


@given(
    prefix=st.integers(min_value=1, max_value=32),
    hours=st.integers(min_value=1, max_value=200),
    by_time=st.booleans(),
    delay=st.integers(min_value=0, max_value=100),
    others=st.integers(min_value=0, max_value=4),
    trusted=st.sampled_from(["128.0.0.0", "128.0.0.1", "203.0.113.1"]),
)
def test_the_command_line_refuses_exactly_what_operator_and_agents_reject(
    prefix: int, hours: int, by_time: bool, delay: int, others: int, trusted: str
) -> None:
    start = NOW + delay * HOUR if delay else None
    end = (start or NOW) + hours * HOUR
    body = wanted(f"128.0.0.0/{prefix}", life=Life(None, end, start) if by_time else Life(hours * HOUR, None, start))
    there = server(limits={"maxTTL": "100h", "maxRulesPerTenant": 3}, trusted={"addresses": [trusted]})
    made = rule("new", cidrs=body["spec"]["cidrs"], metadata={"uid": "z"}, **{"ttl": None, **_times(body)})
    rejected = decide(made, tenant(), there, NOW).phase is AccessPhase.REJECTED or others >= 3
    try:
        check_limits(body, [rule(str(n)) for n in range(others)], tenant(), there, NOW)
    except Refused:
        assert rejected
    else:
        assert not rejected


def _times(body: dict[str, Any]) -> dict[str, Any]:
    return {name: body["spec"][name] for name in ("ttl", "expiresAt", "startsAt") if name in body["spec"]}


def extended(found: AccessRule, at: datetime = NOW + MINUTE, **how: Any) -> dict[str, Any]:
    change = {"more": None, "until": None, "server": server(), **how}
    return extension(found, **change, now=at)


def test_for_adds_to_the_deadline_that_the_rule_has() -> None:
    assert extended(rule(), more=HOUR) == {"ttl": "3h"}
    assert extended(rule(startsAt="2026-12-01T18:00:00Z"), more=HOUR) == {"ttl": "3h"}
    assert extended(rule(expiresAt="2026-12-01T18:00:00Z"), more=HOUR) == {"expiresAt": "2026-12-01T19:00:00Z"}


def test_until_sets_the_deadline_later_or_earlier() -> None:
    assert extended(rule(), until=NOW + 5 * HOUR) == {"ttl": "5h"}
    assert extended(rule(), until=NOW + 30 * MINUTE) == {"ttl": "30m"}
    assert extended(rule(expiresAt="2026-12-01T18:00:00Z"), until=NOW + HOUR) == {"expiresAt": "2026-12-01T13:00:00Z"}


@pytest.mark.parametrize(
    ("found", "at", "how", "says"),
    [
        (rule(revoked=True), NOW, {"more": HOUR}, "was revoked"),
        (rule(), NOW + 2 * HOUR, {"more": HOUR}, "ended at 2026-12-01T14:00:00Z"),
        (rule(status={"closedAt": "2026-12-01T12:10:00Z"}), NOW + 20 * MINUTE, {"more": HOUR}, "12:10:00Z"),
        (rule(), NOW, {"more": 167 * HOUR}, "2026-12-08T12:00:00Z at the latest"),
        (rule(), NOW, {"until": NOW + 200 * HOUR}, "maxTTL"),
        (rule(), NOW + HOUR, {"until": NOW + 30 * MINUTE}, "vaultbrix revoke jane"),
        (rule(startsAt="2026-12-01T18:00:00Z"), NOW, {"until": NOW + HOUR}, "not after the rule's start"),
    ],
    ids=["revoked", "expired", "closed", "for too long", "until too late", "past", "before its start"],
)
def test_an_extension_that_cannot_be_says_what_can(found: AccessRule, at: datetime, how: Any, says: str) -> None:
    with pytest.raises((Misused, Refused)) as caught:
        extended(found, at, **how)
    assert says in str(caught.value)


def test_a_rule_beyond_a_limit_that_was_lowered_may_still_be_shortened() -> None:
    assert extended(rule(ttl="10h"), until=NOW + 5 * HOUR, server=server(limits={"maxTTL": "1h"})) == {"ttl": "5h"}


@given(
    ttl=st.integers(min_value=60, max_value=100_000),
    more=st.integers(min_value=1, max_value=100_000),
    delay=st.integers(min_value=0, max_value=10_000),
    by_time=st.booleans(),
)
def test_the_change_moves_the_deadline_by_exactly_so_much(ttl: int, more: int, delay: int, by_time: bool) -> None:
    start = NOW + timedelta(seconds=delay)
    times = {"expiresAt": rfc3339(start + ttl * SECOND)} if by_time else {"ttl": f"{ttl}s"}
    found = rule(**times, **({"startsAt": rfc3339(start)} if delay else {}))
    change = extended(found, NOW, more=more * SECOND)
    changed = AccessRule.parse({**found.dump(), "spec": {**found.spec.dump(), **change}})
    assert deadline_of(changed) == deadline_of(found) + more * SECOND
    assert set(change) == ({"expiresAt"} if by_time else {"ttl"})


def test_a_span_is_what_durations_are_in_manifests() -> None:
    assert parse_span("--for", "1h30m") == 90 * MINUTE
    assert ip_address("203.0.113.7") == parse_ip("::ffff:203.0.113.7")
