"""The release's own CA: what its certificates are good for, and when another one is issued."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.harness.builders import NOW

from vaultbrix.install.certificates import RENEW_BEFORE, SERVER_LIFE, authority, client, server, usable

NAMES = ["main.system.svc", "203.0.113.5", "2001:db8::5"]
CA = authority("tests", NOW)
ISSUED = server(CA, NAMES, NOW).certificate


def test_an_address_is_an_address_so_that_clients_find_it() -> None:
    parsed = x509.load_pem_x509_certificate(ISSUED.encode())
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == NAMES[:1]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == NAMES[1:]


def test_one_that_is_good_is_kept() -> None:
    assert usable(ISSUED, CA, NAMES, NOW)
    assert usable(ISSUED, CA, NAMES[:1], NOW), "it may name more"


@pytest.mark.parametrize(
    ("certificate", "names", "after"),
    [
        (ISSUED, [*NAMES, "db.example.com"], timedelta()),
        (ISSUED, [*NAMES, "203.0.113.6"], timedelta()),
        (ISSUED, NAMES, SERVER_LIFE - RENEW_BEFORE),
        (server(authority("tests", NOW), NAMES, NOW).certificate, NAMES, timedelta()),
        ("", NAMES, timedelta()),
    ],
    ids=["another name", "another address", "soon over", "of another CA", "none"],
)
def test_another_one_is_issued_when_it_is_needed(certificate: str, names: list[str], after: timedelta) -> None:
    assert not usable(certificate, CA, names, NOW + after)


def test_the_admins_certificate_is_in_its_name_and_good_for_no_server() -> None:
    issued = client(CA, "postgres", NOW).certificate
    parsed = x509.load_pem_x509_certificate(issued.encode())
    assert parsed.subject.rfc4514_string() == "CN=postgres"
    usage = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert usable(issued, CA, (), NOW)
    assert not usable(issued, authority("tests", NOW), (), NOW)
    assert not usable(issued, CA, NAMES, NOW)
