"""A Secret is used for a PostgresServer only if it says so itself, and a CA's Secret gives certificates and no more."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import SecretRef
from vaultbrix.install import certificates
from vaultbrix.postgres.server_secret import FOR_SERVER, certificates_of, check_for_server, label_for, text_of
from vaultbrix.runtime.errors import Blocked

FIELD = "spec.adminSecretRef"
REFERENCE = SecretRef(name="login", namespace="system")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORITY = certificates.authority("tests", NOW)
OTHER = certificates.authority("others", NOW)


def secret(label: str | None) -> dict[str, Any]:
    labels = {"labels": {FOR_SERVER: label}} if label is not None else {}
    return {"metadata": {"name": "login", "namespace": "system", **labels}}


def refusal(label: str | None, server: str = "main") -> str:
    with pytest.raises(Blocked) as error:
        check_for_server(secret(label), server, FIELD)
    assert error.value.reason is Reason.SECRET_NOT_FOR_SERVER
    return error.value.message


@pytest.mark.parametrize("label", ["main", "db1.main", "main.db1", "db1.main.db2"])
def test_one_that_names_the_server_may_be_used(label: str) -> None:
    check_for_server(secret(label), "main", FIELD)


@pytest.mark.parametrize("label", [None, "", "db1", "mainly", "the-main", "db1.mainly", "Main", "."])
def test_any_other_is_refused_with_field_secret_label_and_command(label: str | None) -> None:
    told = refusal(label)
    assert told.startswith("spec.adminSecretRef: Secret system/login is not used")
    assert FOR_SERVER in told
    assert "kubectl -n system label secret login vaultbrix.com/for-postgresserver=" in told


def test_the_command_keeps_the_servers_that_the_secret_is_for_already() -> None:
    assert refusal(None).endswith("=main")
    assert refusal("db1.db2").endswith("=db1.db2.main --overwrite")


def test_where_the_label_is_full_the_remedy_is_a_copy() -> None:
    full = ".".join(f"server-{number:03}" for number in range(5))
    assert label_for([*full.split("."), "another-one"]) is None
    told = refusal(full, "another-one")
    assert "kubectl" not in told
    assert "name a copy of its own, with label vaultbrix.com/for-postgresserver=another-one" in told


def data(text: str, key: str = "ca.crt") -> dict[str, str]:
    return {key: base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize("content", [{}, {"password": ""}, {"password": "%"}, {"password": "/w=="}])
def test_a_value_that_is_no_text_is_told_by_its_key(content: dict[str, str]) -> None:
    with pytest.raises(Blocked) as error:
        text_of(content, "password", REFERENCE, FIELD)
    assert error.value.message == "spec.adminSecretRef: Secret system/login has no text in key password"


def test_certificates_come_out_as_they_are_and_what_stands_around_them_does_not() -> None:
    bundle = f"a password: secret\n{AUTHORITY.certificate}subject: x\n{OTHER.certificate}another"
    found = certificates_of(data(bundle, "bundle"), "bundle", REFERENCE, FIELD)
    assert found == AUTHORITY.certificate + OTHER.certificate
    assert certificates_of(data(AUTHORITY.certificate), "ca.crt", REFERENCE, FIELD) == AUTHORITY.certificate


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("the-password", "holds no certificate"),
        (AUTHORITY.key, "holds something other than certificates"),
        (AUTHORITY.certificate + AUTHORITY.key, "holds something other than certificates"),
        (AUTHORITY.certificate + "-----BEGIN PRIVATE KEY-----\nMII", "holds something other than certificates"),
        (
            "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
            "holds a certificate that cannot be read",
        ),
        (
            AUTHORITY.certificate + "-----BEGIN CERTIFICATE-----\nthe-password",
            "holds a certificate that cannot be read",
        ),
    ],
    ids=["password", "key", "certificate and key", "key that does not end", "no certificate", "one that does not end"],
)
def test_anything_else_leads_nowhere(content: str, told: str) -> None:
    with pytest.raises(Blocked) as error:
        certificates_of(data(content), "ca.crt", REFERENCE, "spec.tls.caSecretRef")
    assert error.value.reason is Reason.SECRET_INVALID
    assert error.value.message.startswith(f"spec.tls.caSecretRef: Secret system/login {told} in key ca.crt")
    assert "the-password" not in error.value.message


def test_a_large_secret_takes_no_time() -> None:
    many = "-----BEGIN X" * 80_000
    with pytest.raises(Blocked):
        certificates_of(data(many), "ca.crt", REFERENCE, FIELD)
