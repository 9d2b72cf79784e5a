"""What EndpointCertificate says, and what clients are told to check because of it."""

import pytest
from tests.harness.builders import NOW, server

from vaultbrix.api.conditions import ConditionType, State, condition
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.servers.decisions import NO_AUTHORITY, Untrusted, endpoint_certificate


def told(state: State, **spec: object) -> PostgresServer:
    found = server(**spec)
    written = condition(ConditionType.ENDPOINT_CERTIFICATE, state, generation=1, now=NOW, previous=[])
    return found.model_copy(update={"status": found.status.model_copy(update={"conditions": [written]})})


@pytest.mark.parametrize(
    ("untrusted", "status", "reason", "mode"),
    [
        (None, True, "CertificateValid", "verify-full"),
        (Untrusted("Hostname mismatch", name_missing=True), False, "NameNotInCertificate", "verify-ca"),
        (Untrusted("self-signed certificate", name_missing=False), False, "CertificateUntrusted", "verify-ca"),
    ],
)
def test_clients_check_the_name_unless_the_certificate_does_not_prove_it(
    untrusted: Untrusted | None, status: bool, reason: str, mode: str
) -> None:
    state = endpoint_certificate(server(publicEndpoint={"host": "db.example.com"}), untrusted)
    assert state[:2] == (status, reason)
    assert "db.example.com" in state[2]
    assert told(state).client_ssl_mode == mode


def test_clients_check_everything_while_nobody_has_looked_at_the_certificate() -> None:
    assert server().client_ssl_mode == "verify-full"


def test_without_a_ca_clients_cannot_check_anything() -> None:
    assert told(NO_AUTHORITY, tls={"mode": "require"}).client_ssl_mode == "require"
    assert "spec.tls.caSecretRef" in NO_AUTHORITY[2]
