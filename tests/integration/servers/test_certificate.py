"""Clients know the server: what its certificate is good for, and how Secrets follow."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.harness.network import SERVER
from tests.harness.shell import wait_for
from tests.harness.world import SERVER_NAME, World, server


@pytest.fixture
def mended(world: World) -> Iterator[World]:
    """What a test changes about the server is put back."""
    yield world
    world.server_secret("pg-ca", {"ca.crt": world.postgres.authority.read_text()})
    world.api.apply(server())
    told(world, "True", "CertificateValid")


def told(world: World, status: str, reason: str) -> str:
    found = world.api.await_condition(
        "pgs", SERVER_NAME, "", type_="EndpointCertificate", status=status, reason=reason, patience=60
    )
    return str(found["message"])


def ssl_mode(world: World, team: str, name: str) -> str:
    (mode,) = parse_qs(urlsplit(world.secret(team, name)["uri"]).query)["sslmode"]
    return mode


def test_a_certificate_without_the_public_name_is_told_and_secrets_say_what_still_holds(mended: World) -> None:
    world, team = mended, mended.team()
    told(world, "True", "CertificateValid")
    tenant = world.tenant(team)
    rule = world.rule(team, tenant, "203.0.113.150/32", login="PerRule")
    world.api.await_condition("accessrule", rule, team)
    of_tenant, of_rule = f"{tenant}-db", f"{rule}-access"
    authority = world.postgres.authority.read_text()
    for name in (of_tenant, of_rule):
        assert (ssl_mode(world, team, name), world.secret(team, name)["ca.crt"]) == ("verify-full", authority)
    world.api.apply(server(publicEndpoint={"host": "db.example.com", "port": 5433}))
    assert "db.example.com" in told(world, "False", "NameNotInCertificate")
    for name in (of_tenant, of_rule):
        wait_for("the Secret says so", lambda name=name: ssl_mode(world, team, name) == "verify-ca")
        assert world.secret(team, name)["ca.crt"] == authority


def test_another_ca_reaches_every_secret_that_holds_it(mended: World) -> None:
    world, team = mended, mended.team()
    tenant = world.tenant(team)
    rule = world.rule(team, tenant, "203.0.113.151/32", login="PerRule")
    world.api.await_condition("accessrule", rule, team)
    both = world.postgres.authority.read_text() + world.store.postgres.authority.read_text()
    world.server_secret("pg-ca", {"ca.crt": both})
    for name in (f"{tenant}-db", f"{rule}-access"):
        wait_for("the Secret has it", lambda name=name: world.secret(team, name)["ca.crt"] == both, patience=60)


def test_a_client_refuses_a_server_whose_certificate_is_of_another_ca(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    rule = world.rule(team, tenant, "203.0.113.152/32")
    world.api.await_condition("accessrule", rule, team)
    psql = world.psql("203.0.113.152", team, tenant, "SELECT 1")
    assert psql.works()
    (world.directory / f"{team}-{tenant}.ca.crt").write_text(world.store.postgres.authority.read_text())
    assert "SSL error" in psql.run().stderr
    assert world.secret(team, f"{tenant}-db")["host"] == SERVER


def test_a_server_without_a_ca_is_told_apart(world: World) -> None:
    world.server("unknown", tls={"mode": "require"})
    try:
        found = world.api.await_condition("pgs", "unknown", "", type_="EndpointCertificate", status="False")
        assert found["reason"] == "NoCertificateAuthority"
    finally:
        world.api.delete("pgs", "unknown")
