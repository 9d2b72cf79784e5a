"""SCRAM-SHA-256 verifiers computed on our side, so that a password is never part of a SQL statement.

Form of the verifier: PostgreSQL 53.8 (pg_authid.rolpassword); computation: RFC 5802, RFC 7677.
"""

import base64
import hashlib
import hmac

ITERATIONS = 4096
SALT_BYTES = 16


def verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """The value of rolpassword for an ASCII password (SASLprep leaves ASCII as it is).

    Raises ValueError for a password that is empty or not printable ASCII.
    """
    if not password or not password.isascii() or not password.isprintable():
        raise ValueError("the password must be printable ASCII")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")

    def b64(raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    return f"SCRAM-SHA-256${iterations}:{b64(salt)}${b64(stored_key)}:{b64(server_key)}"


def matches(password: str, stored: str | None) -> bool:
    """Whether ``verifier`` made a stored value from that password; False for any other form of rolpassword.

    One with other iterations is none of ours: a role may give itself one of so many that each look would take minutes.
    """
    try:
        scheme, parameters, _ = (stored or "").split("$")
        iterations, salt = parameters.split(":")
        if scheme != "SCRAM-SHA-256" or iterations != str(ITERATIONS):
            return False
        expected = verifier(password, base64.b64decode(salt, validate=True))
    except ValueError:
        return False
    return hmac.compare_digest(expected, stored or "")


PASSWORD_BYTES = 32
