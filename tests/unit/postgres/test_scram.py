import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.postgres.scram import matches, verifier

# The exchange printed in RFC 7677, section 3: user "user", password "pencil".
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
NONCE = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
AUTH_MESSAGE = (f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={NONCE}").encode()
CLIENT_PROOF = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
SERVER_SIGNATURE = base64.b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")

PASSWORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40)
SALTS = st.binary(min_size=1, max_size=24)


def test_a_client_of_rfc_7677_logs_in_with_the_verifier_and_believes_the_server() -> None:
    scheme, parameters, keys = verifier("pencil", SALT).split("$")
    stored_key, server_key = map(base64.b64decode, keys.split(":"))
    assert (scheme, parameters) == ("SCRAM-SHA-256", "4096:W22ZaJ0SNY7soEsUEjb6gQ==")
    assert hmac.digest(server_key, AUTH_MESSAGE, "sha256") == SERVER_SIGNATURE
    signature = hmac.digest(stored_key, AUTH_MESSAGE, "sha256")
    client_key = bytes(a ^ b for a, b in zip(CLIENT_PROOF, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key


@given(PASSWORDS, SALTS)
def test_a_verifier_matches_the_password_it_was_made_from(password: str, salt: bytes) -> None:
    assert matches(password, verifier(password, salt))


@given(PASSWORDS, PASSWORDS, SALTS)
def test_a_verifier_matches_no_other_password(password: str, other: str, salt: bytes) -> None:
    assert matches(other, verifier(password, salt)) == (password == other)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("iterations", ["1", "04096", " 4096", "4097", "2147483647", "9" * 300])
def test_a_verifier_of_other_iterations_is_not_computed(iterations: str) -> None:
    """A tenant may give its own role one of so many that each look would hold the operator up."""
    assert not matches("pencil", verifier("pencil", SALT).replace("$4096:", f"${iterations}:"))


def test_the_password_is_no_part_of_the_verifier() -> None:
    assert "pencil" not in verifier("pencil", SALT)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "pencil",
        "md5" + "0" * 32,
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==",
        "SCRAM-SHA-256$x:W22ZaJ0SNY7soEsUEjb6gQ==$a:b",
        "SCRAM-SHA-256$4096:not base64$a:b",
        "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$a:b",
        "SCRAM-SHA-1" + verifier("pencil", SALT).removeprefix("SCRAM-SHA-256"),
        verifier("pencil", SALT) + "$",
        verifier("pencil", SALT)[:-2],
    ],
)
def test_any_other_form_of_rolpassword_does_not_match(stored: str | None) -> None:
    assert not matches("pencil", stored)


@pytest.mark.parametrize("password", ["", "pässword", "a\nb", "a\0b", "\x7f"])
def test_a_password_that_saslprep_would_change_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        verifier(password, SALT)
