from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from tests.harness.tenants import KEYS

from vaultbrix.api.postgresserver import Endpoint
from vaultbrix.tenants.credentials import CA_FILE, ServerIdentity, secret_data

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40)
HOSTS = st.sampled_from(["db.example.com", "203.0.113.1", "2001:db8::1", "localhost"])
NASTY = [":", "\\", "a:b\\c", "p@ss/w?rd#1%41&x=y", "'\"` $(id)", " lead", "trail ", "%", "[::1]", "+", "a b"]


KNOWN = ServerIdentity("-----BEGIN CERTIFICATE-----", "verify-full")


def data(
    password: str = "secret", host: str = "db.example.com", database: str = "app", identity: ServerIdentity = KNOWN
) -> dict[str, str]:
    return secret_data(
        endpoint=Endpoint(host=host, port=5433),
        identity=identity,
        database=database,
        role="tenant_acme",
        password=password,
    )


def pgpass(line: str) -> list[str]:
    """As libpq reads a line (PostgreSQL 34.16): colon separates, backslash takes the next character as it is."""
    fields, rest = [""], iter(line)
    for char in rest:
        if char == ":":
            fields.append("")
        else:
            fields[-1] += next(rest) if char == "\\" else char
    return fields


def test_the_keys_are_those_that_users_of_service_bindings_expect() -> None:
    assert set(data()) == KEYS
    assert all(isinstance(value, str) for value in data().values())


def test_plain_keys_are_plain() -> None:
    found = data(password="p:a/s")
    plain = ("host", "port", "dbname", "username", "password", "schema", "type")
    assert [found[key] for key in plain] == [
        "db.example.com",
        "5433",
        "app",
        "tenant_acme",
        "p:a/s",
        "tenant_acme",
        "postgresql",
    ]


@pytest.mark.parametrize("password", NASTY)
@pytest.mark.parametrize("host", ["db.example.com", "2001:db8::1"])
def test_libpq_reads_the_uri_back_whatever_the_password(password: str, host: str) -> None:
    assert conninfo_to_dict(data(password, host)["uri"]) == {
        "host": host,
        "port": "5433",
        "dbname": "app",
        "user": "tenant_acme",
        "password": password,
        "sslmode": "verify-full",
    }


@given(PRINTABLE, HOSTS, PRINTABLE)
def test_every_uri_and_pgpass_says_the_same(password: str, host: str, database: str) -> None:
    found = data(password, host, database)
    assert pgpass(found["pgpass"]) == [host, "5433", database, "tenant_acme", password]
    for key in ("uri", "DATABASE_URL"):
        parts = urlsplit(found[key])
        assert (parts.hostname, parts.port) == (host, 5433)
        assert unquote(parts.password or "") == password
        assert unquote(parts.path.removeprefix("/")) == database
    jdbc = urlsplit(found["jdbc-uri"].removeprefix("jdbc:"))
    assert parse_qs(jdbc.query, strict_parsing=True) == {
        "user": ["tenant_acme"],
        "password": [password],
        "sslmode": ["verify-full"],
        "currentSchema": ["tenant_acme"],
    }
    assert (jdbc.hostname, jdbc.port, unquote(jdbc.path)) == (host, 5433, f"/{database}")


def test_prisma_finds_the_schema_in_database_url() -> None:
    query = parse_qs(urlsplit(data()["DATABASE_URL"]).query)
    assert query == {"sslmode": ["require"], "sslaccept": ["strict"], "schema": ["tenant_acme"]}


def test_an_ipv6_host_stands_in_brackets() -> None:
    found = data(host="2001:db8::1")
    assert "@[2001:db8::1]:5433/" in found["uri"]
    assert "//[2001:db8::1]:5433/" in found["jdbc-uri"]
    assert found["host"] == "2001:db8::1"
    assert found["pgpass"].startswith("2001\\:db8\\:\\:1:5433:")


def test_a_pod_that_takes_its_environment_from_the_secret_checks_the_certificate() -> None:
    found = {key: value for key, value in data(password="p:a").items() if key.startswith("PG")}
    assert found == {
        "PGHOST": "db.example.com",
        "PGPORT": "5433",
        "PGDATABASE": "app",
        "PGUSER": "tenant_acme",
        "PGPASSWORD": "p:a",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": CA_FILE,
        "PGCHANNELBINDING": "require",
        "PGREQUIREAUTH": "scram-sha-256",
    }
    assert data()["ca.crt"] == KNOWN.ca


def test_a_certificate_without_the_name_still_has_to_be_of_the_ca() -> None:
    found = data(identity=ServerIdentity("CA", "verify-ca"))
    assert found["uri"].endswith("?sslmode=verify-ca")
    assert "&sslmode=verify-ca&" in found["jdbc-uri"]
    assert found["PGSSLMODE"] == "verify-ca"


def test_without_a_ca_nothing_leaves_out_tls_or_names_a_file_that_nobody_has() -> None:
    found = data(identity=ServerIdentity("", "require"))
    assert all("sslmode=require" in found[key] for key in ("uri", "jdbc-uri", "DATABASE_URL"))
    assert found["PGCHANNELBINDING"] == found["PGSSLMODE"] == "require"
    assert {"ca.crt", "PGSSLROOTCERT"}.isdisjoint(found)
    assert "sslaccept" not in found["DATABASE_URL"]
