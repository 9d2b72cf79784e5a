"""Users' tokens: what is accepted, and everything that must not be."""

import base64
import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.known_keys import NOW, OTHER_RSA_KEY, RSA_KEY, USERS_SECRET, jwks, public_pem, user_token

from vaultbrix.gateway import jwt
from vaultbrix.gateway.jwt import TokenExpired, TokenKeyUnknown, TokenRefused, Users

SECRET_USERS = Users((jwt.secret_key(USERS_SECRET),))
JWKS_USERS = Users(jwt.keys_of_jwks(jwks(RSA_KEY)))


def rsa_token(key: rsa.RSAPrivateKey = RSA_KEY, kid: str | None = "k0", **claims: Any) -> str:
    return user_token(key, algorithm="RS256", header={"kid": kid} if kid is not None else {}, **claims)


def forged(header: dict[str, Any], claims: dict[str, Any], key: bytes | None = None) -> str:
    """A token put together by hand, signed by HMAC with any bytes, or with an empty signature."""

    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    text = ".".join(part(json.dumps(each).encode()) for each in (header, claims))
    return f"{text}.{part(hmac.digest(key, text.encode(), hashlib.sha256)) if key is not None else ''}"


def refusal(token: str, users: Users = SECRET_USERS) -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        jwt.verify(token, users, NOW)
    return caught.value


FUTURE = {"exp": int(NOW.timestamp()) + 60, "sub": "7b1c"}


def test_a_token_of_the_tenants_secret_is_accepted() -> None:
    assert jwt.verify(user_token(email="a@b.c"), SECRET_USERS, NOW)["email"] == "a@b.c"


@pytest.mark.parametrize("kid", ["k0", None])
def test_a_token_of_a_published_key_is_accepted(kid: str | None) -> None:
    assert jwt.verify(rsa_token(kid=kid), JWKS_USERS, NOW)["sub"] == "7b1c"


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
def test_elliptic_curves_have_the_one_algorithm_of_their_kind(key: Any, algorithm: str) -> None:
    kind = pyjwt.get_algorithm_by_name(algorithm)
    member = {**json.loads(kind.to_jwk(key.public_key())), "kid": "e"}
    (found,) = jwt.keys_of_jwks(json.dumps({"keys": [member]}).encode())
    assert found.algorithm == algorithm
    token = user_token(key, algorithm=algorithm, header={"kid": "e"})
    assert jwt.verify(token, Users((found,)), NOW)["sub"] == "7b1c"
    assert jwt.keys_of_jwks(json.dumps({"keys": [{**member, "alg": "RS256"}]}).encode()) == ()


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "hs256", None, 5, ["HS256"]])
def test_no_algorithm_of_the_tokens_own_choice(alg: object) -> None:
    for users in (SECRET_USERS, JWKS_USERS):
        assert refusal(forged({"alg": alg}, FUTURE) + "AA", users)
        assert refusal(forged({"alg": alg}, FUTURE, USERS_SECRET), users)
        assert refusal(forged({"alg": alg}, FUTURE), users)


def test_a_public_key_is_no_secret() -> None:
    for key in (public_pem(RSA_KEY), public_pem(RSA_KEY).strip(), jwks(RSA_KEY)):
        assert isinstance(refusal(forged({"alg": "HS256", "kid": "k0"}, FUTURE, key), JWKS_USERS), TokenKeyUnknown)
    both = Users((jwt.secret_key(USERS_SECRET), *JWKS_USERS.keys))
    assert refusal(forged({"alg": "HS256", "kid": "k0"}, FUTURE, public_pem(RSA_KEY)), both)


def test_a_key_that_verifies_rs256_verifies_nothing_else() -> None:
    assert refusal(user_token(RSA_KEY, algorithm="PS256", header={"kid": "k0"}), JWKS_USERS)
    assert refusal(user_token(RSA_KEY, algorithm="RS512", header={"kid": "k0"}), JWKS_USERS)


@pytest.mark.parametrize(
    "kid",
    [
        "k1",
        "",
        "../k0",
        "/dev/null",
        "k0\x00",
        "https://evil.example/jwks",
        "' OR 1=1 --",
        "K0",
        " k0",
        "k" * 300,
        0,
        {},
    ],
)
def test_a_kid_only_chooses_among_the_keys_that_are_known(kid: object) -> None:
    assert refusal(forged({"alg": "RS256", "kid": kid}, FUTURE, b"x"), JWKS_USERS)
    if isinstance(kid, str):
        assert refusal(rsa_token(kid=kid), JWKS_USERS)


def test_no_key_is_taken_from_a_token() -> None:
    own = json.loads(jwks(OTHER_RSA_KEY))["keys"][0]
    for header in ({"jwk": own}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/"}, {"x5c": []}):
        token = user_token(OTHER_RSA_KEY, algorithm="RS256", header={"kid": "k0", **header})
        assert str(refusal(token, JWKS_USERS)) == "JWT has no valid signature"


def test_another_tenants_user_is_refused() -> None:
    assert refusal(user_token(b"the secret of another tenant's users"))
    assert refusal(rsa_token(OTHER_RSA_KEY), JWKS_USERS)


def test_a_rotated_set_of_keys_accepts_both_and_then_the_new_one_alone() -> None:
    both = Users(jwt.keys_of_jwks(jwks(RSA_KEY, OTHER_RSA_KEY)))
    assert jwt.verify(rsa_token(OTHER_RSA_KEY, "k1"), both, NOW)
    assert jwt.verify(rsa_token(), both, NOW)
    assert isinstance(refusal(rsa_token(kid=None), both), TokenKeyUnknown), "which of the two is meant is not guessed"
    assert isinstance(refusal(rsa_token(OTHER_RSA_KEY, "k1"), JWKS_USERS), TokenKeyUnknown)


@pytest.mark.parametrize(
    "exp", [None, True, "4102444800", float("nan"), float("inf"), [1], {}, -1, 0, 1e400, "0x7fffffff"]
)
def test_a_token_without_an_end_that_can_be_read_is_refused(exp: object) -> None:
    assert refusal(forged({"alg": "HS256"}, {"sub": "a", "exp": exp}, USERS_SECRET))
    assert refusal(forged({"alg": "HS256"}, {"sub": "a"}, USERS_SECRET))


def test_time_is_that_of_the_parameter() -> None:
    token = user_token(exp=int(NOW.timestamp()) + 10)
    assert jwt.verify(token, SECRET_USERS, NOW + timedelta(seconds=9))
    with pytest.raises(TokenExpired):
        jwt.verify(token, SECRET_USERS, NOW + timedelta(seconds=10))
    assert str(refusal(user_token(nbf=int(NOW.timestamp()) + 31))) == "JWT is not valid yet"
    assert str(refusal(user_token(iat=int(NOW.timestamp()) + 31))) == "JWT is not valid yet"
    assert jwt.verify(user_token(nbf=int(NOW.timestamp()) + 30, iat=int(NOW.timestamp()) + 30), SECRET_USERS, NOW)


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"iss": "https://id.example", "aud": "notes"}, True),
        ({"iss": "https://id.example", "aud": ["other", "notes"]}, True),
        ({"iss": "https://id.example"}, False),
        ({"iss": "https://id.example", "aud": "notes2"}, False),
        ({"iss": "https://id.example", "aud": {"notes": 1}}, False),
        ({"iss": "https://id.example/", "aud": "notes"}, False),
        ({"iss": ["https://id.example"], "aud": "notes"}, False),
        ({"aud": "notes"}, False),
    ],
)
def test_issuer_and_audience_are_those_of_the_tenant(claims: dict[str, Any], accepted: bool) -> None:
    users = Users(SECRET_USERS.keys, issuer="https://id.example", audience="notes")
    # By hand: the library does not write an issuer that is no text.
    token = forged({"alg": "HS256"}, {**FUTURE, **claims}, USERS_SECRET)
    if accepted:
        assert jwt.verify(token, users, NOW)
    else:
        assert refusal(token, users)


@pytest.mark.parametrize("sub", [5, None, ["a"], "x" * 257, "a\nb", "a\x00b", "\u202eevil"])
def test_a_subject_that_the_record_cannot_hold_is_refused(sub: object) -> None:
    assert refusal(forged({"alg": "HS256"}, {**FUTURE, "sub": sub}, USERS_SECRET))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"a": ["\x00"]}])
def test_claims_that_postgresql_cannot_read_are_refused(value: object) -> None:
    assert refusal(forged({"alg": "HS256"}, {**FUTURE, "a": value}, USERS_SECRET))


@pytest.mark.parametrize("name", ["crit", "b64"])
def test_extensions_are_not_known_here(name: str) -> None:
    assert refusal(forged({"alg": "HS256", name: ["b64"] if name == "crit" else False}, FUTURE, USERS_SECRET))


def test_size_is_bounded() -> None:
    assert str(refusal(user_token(a="x" * 8000))) == "JWT is too long"
    deep = "[" * 3000 + "]" * 3000
    head, signature = base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("="), "AAAA"
    body = base64.urlsafe_b64encode(deep.encode()).decode().rstrip("=")
    assert refusal(f"{head}.{body}.{signature}")
    signed = f"{head}.{body}"
    mac = base64.urlsafe_b64encode(hmac.digest(USERS_SECRET, signed.encode(), hashlib.sha256)).decode().rstrip("=")
    assert refusal(f"{signed}.{mac}")


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_whatever_is_sent_is_refused_and_nothing_else_happens(text: str) -> None:
    for token in (text, f"{text}.{text}.{text}", f"{user_token().rsplit('.', 1)[0]}.{text}"):
        for users in (SECRET_USERS, JWKS_USERS, Users(())):
            assert refusal(token, users)


@given(st.integers(0, 300), st.integers(1, 255))
def test_no_bit_of_a_token_can_be_changed(place: int, mask: int) -> None:
    token = user_token().encode()
    place %= len(token)
    changed = bytearray(token)
    changed[place] ^= mask
    try:
        claims = jwt.verify(changed.decode("latin-1"), SECRET_USERS, NOW)
    except TokenRefused:
        return
    # The last character of a part has bits that stand for nothing.
    assert claims == jwt.verify(token.decode(), SECRET_USERS, NOW)


@pytest.mark.parametrize(
    "document",
    [
        b"", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"[" * 100_000, b'{"keys": "x"}',
        json.dumps({"keys": [{}] * 33}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_jwk_set_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"JWK Set|no JSON"):
        jwt.keys_of_jwks(document)


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"}, {"use": 5}, {"kty": "oct", "k": "c2VjcmV0" * 8}, {"alg": "HS256"}, {"alg": "none"}, {"alg": 5},
        {"kid": 5}, {"kid": "x" * 300}, {"kty": []}, {"kty": "RSB"}, {"n": "AQAB"}, {"n": 5}, {"n": "!"}, {"d": "AQAB"},
        {"e": "A" * 400}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"key_ops": 5},
    ],
)  # fmt: skip
def test_a_published_key_that_verifies_no_signature_is_passed_over(members: dict[str, Any]) -> None:
    assert jwt.keys_of_jwks(jwks(RSA_KEY, **members)) == ()


def test_small_keys_and_short_secrets_are_not_used() -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    assert jwt.keys_of_jwks(jwks(small)) == ()
    with pytest.raises(ValueError, match="32 bytes"):
        jwt.secret_key(b"x" * 31)


def test_of_two_keys_with_one_name_none_is_used() -> None:
    first, second = json.loads(jwks(RSA_KEY))["keys"][0], json.loads(jwks(OTHER_RSA_KEY))["keys"][0]
    assert jwt.keys_of_jwks(json.dumps({"keys": [first, second, "x", 5]}).encode()) == ()


def test_a_minted_token_lives_two_minutes_whatever_its_claims_say() -> None:
    secret = bytes(range(32))
    minted = jwt.mint(secret, {"a": "ä", "exp": 9_999_999_999, "iat": 1}, NOW)
    claims = jwt.verify(minted, Users((jwt.secret_key(secret),)), NOW)
    assert claims == {"a": "ä", "iat": int(NOW.timestamp()), "exp": int(NOW.timestamp()) + 120}
    with pytest.raises(ValueError, match="32 bytes"):
        jwt.mint(b"short", {}, NOW)


def test_no_key_shows_in_what_is_printed() -> None:
    assert "secret of one tenant" not in repr(SECRET_USERS)
