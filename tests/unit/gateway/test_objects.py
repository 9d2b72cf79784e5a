"""What is read from APIKeys and Tenants, and that nobody is served who must not be."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, api_key, tenant, true

from vaultbrix.api.apikey import KeyKind, KeyPhase
from vaultbrix.api.meta import rfc3339
from vaultbrix.dataapi.decisions import is_good
from vaultbrix.gateway.jwt import Users, secret_key
from vaultbrix.gateway.last_use import is_due
from vaultbrix.gateway.objects import known_key, known_tenant
from vaultbrix.gateway.postgrest import socket_name

NEW, OLD, OTHER = "a" * 64, "b" * 64, "c" * 64
KEYS = (secret_key(b"x" * 32),)


SERVED = {"conditions": true("Provisioned", "DataAPIReady")}


def entry(sha256: str, expires: datetime | None) -> dict[str, Any]:
    end = {"expiresAt": rfc3339(expires)} if expires else {}
    return {"sha256": sha256, "prefix": "vbx_secret_abc", "createdAt": rfc3339(NOW), **end}


ENDS = st.none() | st.integers(-3, 3).map(lambda minutes: NOW + minutes * MINUTE)


@given(
    ENDS, ENDS, st.none() | st.sampled_from(list(KeyPhase)), st.booleans(), st.booleans(),
    st.none() | st.integers(1, 5), st.integers(-4, 4),
)  # fmt: skip
def test_a_key_is_good_when_the_operators_rule_says_so(
    overlap_end: datetime | None,
    end: datetime | None,
    phase: KeyPhase | None,
    revoked: bool,
    deleting: bool,
    ttl: int | None,
    minutes: int,
) -> None:
    status = {"phase": phase, "keys": [entry(NEW, None), entry(OLD, overlap_end)]}
    if end is not None:
        status["expiresAt"] = rfc3339(end)
    metadata = {"deletionTimestamp": rfc3339(NOW)} if deleting else {}
    spec = {"ttl": f"{ttl}m"} if ttl is not None else {}
    found = api_key(metadata=metadata, status=status, revoked=revoked, **spec)
    now = NOW + timedelta(minutes=minutes)
    for sha256 in (NEW, OLD, OTHER):
        known = known_key(found, sha256)
        good = known is not None and not known.closed and (known.ends_at is None or now < known.ends_at)
        assert good == is_good(found, sha256, now)


def test_a_key_is_its_tenants_and_of_its_kind() -> None:
    found = api_key(status={"phase": "Active", "keys": [entry(NEW, None)]}, allowedCIDRs=["198.51.100.0/24"])
    known = known_key(found, NEW)
    assert known is not None
    assert (known.tenant, known.kind, known.allowed_cidrs) == (found.tenant_key, KeyKind.SECRET, ("198.51.100.0/24",))


def test_the_key_that_was_replaced_last_is_known_as_one_that_is_good_no_more() -> None:
    receipt = {
        "sha256": OLD, "createdAt": rfc3339(NOW), "closedAt": rfc3339(NOW + HOUR), "reason": "Rotated", "message": "",
    }  # fmt: skip
    found = api_key(status={"phase": "Active", "keys": [entry(NEW, None)], "receipt": receipt})
    known = known_key(found, OLD)
    assert known is not None
    assert (known.name, known.sha256, known.closed) == (found.key, OLD, True)
    assert known_key(found, OTHER) is None


@pytest.mark.parametrize(
    ("served", "changes"),
    [
        (True, {}),
        (False, {"dataAPI": None}),
        (False, {"dataAPI": {"enabled": False}}),
        (False, {"suspended": True}),
        (False, {"status": {"conditions": true("Provisioned")}}),
        (False, {"metadata": {"deletionTimestamp": rfc3339(NOW)}}),
    ],
)
def test_only_a_tenant_that_is_as_it_should_be_is_served(served: bool, changes: dict[str, Any]) -> None:
    asked = tenant(**{"dataAPI": {}, "status": SERVED, **changes})
    assert known_tenant(asked, ()).served is served


def test_users_are_those_of_the_tenant() -> None:
    assert known_tenant(tenant(dataAPI={}), KEYS).users is None
    tokens = {"jwksURL": "https://id.example/jwks", "issuer": "i", "audience": "a", "roleClaim": "group"}
    known = known_tenant(tenant(dataAPI={"jwt": tokens}), KEYS)
    assert known.users == Users(KEYS, "i", "a", "group", "https://id.example/jwks")
    assert (known.role, known.backend) == ("tenant_acme", socket_name(("team", "acme")))


def test_a_socket_has_a_path_that_is_short_enough_whatever_the_names() -> None:
    assert len(socket_name(("n" * 63, "t" * 253))) == 32
    assert socket_name(("a", "b/c")) != socket_name(("a/b", "d"))


def test_a_use_is_told_once_a_minute() -> None:
    unused, used = api_key(), api_key(status={"lastUsedAt": rfc3339(NOW)})
    assert is_due(unused, NOW)
    assert not is_due(used, NOW + MINUTE - timedelta(seconds=1))
    assert is_due(used, NOW + MINUTE)
    assert not is_due(used, NOW - HOUR)
