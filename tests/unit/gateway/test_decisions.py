"""Who is let in as whom, and that nobody learns or gets anything beyond their key."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.known_keys import DOMAIN, NOW, USERS_SECRET, KnownInMemory, digest, request, user_token

from vaultbrix.api.apikey import KeyKind
from vaultbrix.gateway import jwt
from vaultbrix.gateway.decisions import Allowed, Settings, decide
from vaultbrix.gateway.jwt import Users
from vaultbrix.gateway.postgrest import socket_name
from vaultbrix.gateway.refusals import Refusal, Why, bad_key
from vaultbrix.gateway.request import Request

SETTINGS = Settings(DOMAIN, bytes(range(32)))
MINTED = Users((jwt.secret_key(SETTINGS.secret),))

KNOWN = KnownInMemory()
KNOWN.add_tenant("acme", users=Users((jwt.secret_key(USERS_SECRET),)))
KNOWN.add_tenant("globex", users=Users((jwt.secret_key(b"the secret of globex's users alone"),)))
PUBLISHABLE = KNOWN.add_key("acme")
SECRET = KNOWN.add_key("acme", KeyKind.SECRET)
OTHER = KNOWN.add_key("globex", KeyKind.SECRET)
NARROW = KNOWN.add_key("acme", allowed_cidrs=("198.51.100.0/24", "2001:db8::/64"))
REVOKED = KNOWN.add_key("acme", KeyKind.SECRET, closed=True)
ENDING = KNOWN.add_key("acme", ends_at=NOW + timedelta(seconds=10))
ORPHAN = KNOWN.add_key("nobody")


def asked(key: str | None, *headers: tuple[str, str], target: str = "/rest/v1/notes", **about: Any) -> Request:
    return request(target, *([("apikey", key)] if key is not None else []), *headers, **about)


def allowed(key: str, *headers: tuple[str, str], **about: Any) -> Allowed:
    decision = decide(asked(key, *headers, **about), KNOWN, NOW, SETTINGS)
    assert isinstance(decision, Allowed), decision
    return decision


def refused(key: str | None, *headers: tuple[str, str], **about: Any) -> Refusal:
    decision = decide(asked(key, *headers, **about), KNOWN, NOW, SETTINGS)
    assert isinstance(decision, Refusal), decision
    return decision


def minted(decision: Allowed) -> dict[str, Any]:
    return dict(jwt.verify(decision.headers["Authorization"].removeprefix("Bearer "), MINTED, NOW))


def bearer(token: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {token}")


def globex_token(**claims: Any) -> str:
    return user_token(b"the secret of globex's users alone", **claims)


@pytest.mark.parametrize(
    ("key", "headers", "role", "policy_role"),
    [
        (PUBLISHABLE, [], "tenant_acme_anon", "anon"),
        (PUBLISHABLE, [bearer(PUBLISHABLE)], "tenant_acme_anon", "anon"),
        (PUBLISHABLE, [bearer(user_token())], "tenant_acme_authenticated", "authenticated"),
        (PUBLISHABLE, [bearer(user_token(role="authenticated"))], "tenant_acme_authenticated", "authenticated"),
        (PUBLISHABLE, [bearer(user_token(role="anon"))], "tenant_acme_anon", "anon"),
        (SECRET, [], "tenant_acme", "service_role"),
        (SECRET, [bearer(SECRET)], "tenant_acme", "service_role"),
        (SECRET, [bearer(user_token())], "tenant_acme_authenticated", "authenticated"),
        (SECRET, [bearer(user_token(role="anon"))], "tenant_acme_anon", "anon"),
    ],
)
def test_key_and_user_choose_the_role(key: str, headers: list[Any], role: str, policy_role: str) -> None:
    decision = allowed(key, *headers)
    claims = minted(decision)
    assert decision.role == claims["vaultbrix"]["role"] == role
    assert claims["vaultbrix_role"] == policy_role


@pytest.mark.parametrize("key", [PUBLISHABLE, SECRET])
@pytest.mark.parametrize(
    "role",
    ["service_role", "tenant_acme", "tenant_globex", "postgres", "vaultbrix_rest", "ANON", "", None, 5, ["anon"], {}],
)
def test_a_role_that_a_user_asks_for_is_not_given(key: str, role: object) -> None:
    token = user_token(role=role) if role is not None else user_token(role=[None])
    assert refused(key, bearer(token)).status == 403


def test_what_goes_on_is_written_here() -> None:
    decision = allowed(
        PUBLISHABLE, bearer(user_token(sub="u1", email="a@b.c")), target=f"/rest/v1/notes?apikey={PUBLISHABLE}&a=eq.1"
    )
    assert {name: value for name, value in decision.headers.items() if name != "Authorization"} == {
        "Accept-Profile": "tenant_acme",
        "Content-Profile": "tenant_acme",
        "X-Request-Id": "0123456789abcdef0123456789abcdef",
        "X-Vaultbrix-Tenant": "apps/acme",
        "X-Vaultbrix-Key": "apps/acme-publishable",
        "X-Vaultbrix-Backend": socket_name(("apps", "acme")),
        "X-Vaultbrix-Path": "/notes?a=eq.1",
    }
    assert minted(decision) == {
        "sub": "u1",
        "email": "a@b.c",
        "vaultbrix_role": "authenticated",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 120,
        "vaultbrix": {
            "role": "tenant_acme_authenticated",
            "tenant": "apps/acme",
            "key": "apps/acme-publishable",
            "key_sha256": digest(PUBLISHABLE)[:16],
            "subject": "u1",
            "client": "203.0.113.7",
            "request": "0123456789abcdef0123456789abcdef",
        },
    }


def test_a_users_claims_never_overwrite_what_is_written_here() -> None:
    token = user_token(
        vaultbrix={"role": "tenant_globex", "key": "x"},
        vaultbrix_role="service_role",
        role="authenticated",
        exp=4_102_444_800,
        nbf=1,
    )
    claims = minted(allowed(SECRET, bearer(token)))
    assert claims["vaultbrix"]["role"] == "tenant_acme_authenticated"
    assert claims["vaultbrix_role"] == "authenticated"
    assert claims["exp"] == int(NOW.timestamp()) + 120
    assert "nbf" not in claims


def test_the_role_claim_is_the_tenants() -> None:
    known = KnownInMemory()
    known.add_tenant("acme", users=Users((jwt.secret_key(USERS_SECRET),), role_claim="group"))
    key = known.add_key("acme")
    for claims, role in (({"role": "admin"}, "authenticated"), ({"group": "anon"}, "anon")):
        decision = decide(asked(key, bearer(user_token(**claims))), known, NOW, SETTINGS)
        assert isinstance(decision, Allowed)
        assert (decision.role, minted(decision)["vaultbrix_role"]) == (f"tenant_acme_{role}", role)
    assert isinstance(decide(asked(key, bearer(user_token(group="admin"))), known, NOW, SETTINGS), Refusal)


BAD_KEYS = {
    "unknown": (asked("vbx_secret_" + "x" * 49), Why.KEY_UNKNOWN),
    "malformed": (asked("' OR 1=1 --"), Why.KEY_UNKNOWN),
    "not ASCII": (asked("vbx_secret_ä"), Why.KEY_UNKNOWN),
    "long": (asked("x" * 100_000), Why.KEY_UNKNOWN),
    "a hash": (asked(next(iter(KNOWN.keys))), Why.KEY_UNKNOWN),
    "another case": (asked(SECRET.upper()), Why.KEY_UNKNOWN),
    "with a blank": (asked(SECRET + " "), Why.KEY_UNKNOWN),
    "cut short": (asked(SECRET[:-1]), Why.KEY_UNKNOWN),
    "revoked": (asked(REVOKED), Why.KEY_CLOSED),
    "without a tenant": (asked(ORPHAN), Why.KEY_CLOSED),
    "from another address": (asked(NARROW, client="203.0.113.7"), Why.OTHER_ADDRESS),
    "from another address (v6)": (asked(NARROW, client="2001:db8:0:1::1"), Why.OTHER_ADDRESS),
    "at another tenant's host": (asked(OTHER, host=f"acme.{DOMAIN}"), Why.OTHER_HOST),
    "at nobody's host": (asked(SECRET, host=f"nobody.{DOMAIN}"), Why.OTHER_HOST),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_nobody_learns_whether_a_key_exists(case: str) -> None:
    sent, why = BAD_KEYS[case]
    decision = decide(sent, KNOWN, NOW, SETTINGS)
    assert isinstance(decision, Refusal)
    unknown = bad_key(why)
    assert (decision.status, decision.body, decision.challenge, decision.why) == (
        401, bad_key(Why.KEY_UNKNOWN).body, unknown.challenge, why,
    )  # fmt: skip
    assert decision.challenge.startswith("Bearer ")


def test_an_end_counts_from_its_very_moment() -> None:
    sent = asked(ENDING)
    assert isinstance(decide(sent, KNOWN, NOW + timedelta(seconds=9.999), SETTINGS), Allowed)
    decision = decide(sent, KNOWN, NOW + timedelta(seconds=10), SETTINGS)
    assert isinstance(decision, Refusal)
    assert (decision.why, decision.body) == (Why.KEY_EXPIRED, bad_key(Why.KEY_UNKNOWN).body)


@pytest.mark.parametrize("client", ["198.51.100.255", "2001:db8::1", "::ffff:198.51.100.1"])
def test_a_key_for_addresses_is_good_there(client: str) -> None:
    assert allowed(NARROW, client=client)


@pytest.mark.parametrize("host", [DOMAIN, f"acme.{DOMAIN}", f"ACME.{DOMAIN}:8443"])
def test_both_forms_of_host_lead_to_the_keys_own_tenant(host: str) -> None:
    assert allowed(SECRET, host=host).headers["Accept-Profile"] == "tenant_acme"


def test_a_request_without_a_key_is_told_how_to_send_one() -> None:
    for key in (None, ""):
        decision = refused(key, bearer(user_token()))
        assert (decision.status, decision.why) == (401, Why.NO_KEY)
        assert decision.challenge
    # A key as bearer alone is none: what it would be for is not guessed.
    assert refused(None, bearer(SECRET)).why is Why.NO_KEY


@pytest.mark.parametrize(
    "token",
    [
        "x", OTHER, PUBLISHABLE, globex_token(), globex_token(role="anon"), user_token(exp=int(NOW.timestamp())),
        user_token(nbf=int(NOW.timestamp()) + 60), user_token() + "x",
    ],
)  # fmt: skip
def test_a_users_token_that_is_not_good_is_refused_and_not_passed_over(token: str) -> None:
    decision = refused(SECRET, bearer(token))
    assert (decision.status, decision.code) == (401, "PGRST301")
    assert decision.challenge == f'Bearer error="invalid_token", error_description="{decision.message}"'


def test_an_expired_token_says_so_as_postgrest_does() -> None:
    decision = refused(SECRET, bearer(user_token(exp=int(NOW.timestamp()) - 1)))
    assert json.loads(decision.body) == {"code": "PGRST301", "details": None, "hint": None, "message": "JWT expired"}


def test_a_tenant_without_users_has_none() -> None:
    known = KnownInMemory()
    known.add_tenant("acme")
    key = known.add_key("acme", KeyKind.SECRET)
    decision = decide(asked(key, bearer(user_token())), known, NOW, SETTINGS)
    assert isinstance(decision, Refusal)
    assert decision.status == 401
    known.add_tenant("acme", users=Users(()))
    decision = decide(asked(key, bearer(user_token())), known, NOW, SETTINGS)
    assert isinstance(decision, Refusal)
    assert (decision.status, decision.why) == (503, Why.TOKEN_KEY_UNKNOWN)
    assert isinstance(decide(asked(key), known, NOW, SETTINGS), Allowed)


@pytest.mark.parametrize("name", ["Accept-Profile", "accept-profile", "ACCEPT-PROFILE", "Content-Profile"])
@pytest.mark.parametrize(
    "values",
    [
        ["tenant_globex"], ["tenant_acme", "tenant_globex"], ["tenant_acme", "tenant_acme"], ["Tenant_Acme"], [""],
        ["tenant_acme, tenant_globex"], ["pg_catalog"], ["information_schema"], ["tenant_acme "], ["PUBLIC"],
    ],
)  # fmt: skip
def test_another_profile_is_refused_and_names_no_other_tenant(name: str, values: list[str]) -> None:
    decision = refused(SECRET, *((name, value) for value in values))
    assert (decision.status, decision.code) == (406, "PGRST106")
    assert b"globex" not in decision.body


@pytest.mark.parametrize("profile", ["tenant_acme", "public"])
def test_the_tenants_own_profile_may_be_named(profile: str) -> None:
    headers = allowed(SECRET, ("Accept-Profile", profile), ("Content-Profile", profile)).headers
    assert headers["Accept-Profile"] == headers["Content-Profile"] == "tenant_acme"


def test_a_profile_in_the_query_is_a_filter_like_any_other() -> None:
    decision = allowed(SECRET, target="/rest/v1/notes?Accept-Profile=tenant_globex")
    assert decision.headers["Accept-Profile"] == "tenant_acme"


def test_who_holds_a_good_key_is_told_what_is_wrong_with_the_tenant() -> None:
    known = KnownInMemory()
    known.add_tenant("acme", served=False)
    key = known.add_key("acme")
    decision = decide(asked(key), known, NOW, SETTINGS)
    assert isinstance(decision, Refusal)
    assert decision.status == 403


def test_too_many_requests_with_a_key() -> None:
    decision = decide(asked(SECRET), KNOWN, NOW, SETTINGS, seconds_to_wait=lambda _: 1.2)
    assert isinstance(decision, Refusal)
    assert (decision.status, decision.retry_after) == (429, 2)
    # A key that is not good is no key's request.
    counted: list[object] = []
    decide(asked(REVOKED), KNOWN, NOW, SETTINGS, seconds_to_wait=lambda key: counted.append(key) or 0.0)
    assert counted == []


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["apikey", "authorization", "accept-profile", "content-profile", "x-request-id", "range"]),
        st.one_of(
            st.sampled_from(
                [PUBLISHABLE, REVOKED, NARROW, "tenant_acme", "tenant_globex", "public", f"Bearer {OTHER}"]
            ),
            st.just(f"Bearer {globex_token()}"),
            st.just(f"Bearer {user_token()}"),
            st.text(st.characters(max_codepoint=255), max_size=40),
        ),
    ),
    max_size=5,
)


@given(HEADERS, st.text(st.characters(max_codepoint=255), max_size=40), st.sampled_from([DOMAIN, f"globex.{DOMAIN}"]))
def test_without_a_key_of_globex_nothing_leads_there(headers: list[Any], text: str, host: str) -> None:
    for target in (f"/rest/v1/{text}", f"/rest/v1/notes?{text}", text):
        decision = decide(request(target, *headers, host=host), KNOWN, NOW, SETTINGS)
        if isinstance(decision, Refusal):
            assert b"globex" not in decision.body
            assert decision.status in {400, 401, 403, 404, 406}
            continue
        assert decision.key.tenant == ("apps", "acme")
        assert decision.role in {"tenant_acme_anon", "tenant_acme_authenticated"}
        assert decision.headers["Accept-Profile"] == decision.headers["Content-Profile"] == "tenant_acme"
        for value in decision.headers.values():
            assert value.isascii()
            assert value.isprintable()


def test_the_secret_does_not_show_in_what_is_printed() -> None:
    assert str(SETTINGS.secret) not in repr(SETTINGS)
