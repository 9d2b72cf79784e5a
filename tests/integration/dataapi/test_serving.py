"""A Tenant's data API as its objects tell of it: made, closed, blocked with a reason, and gone with the Tenant."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for
from tests.harness.tenants import restart_operator
from tests.harness.world import FOR_SERVER, JOBS, SERVER_NAME, World

URL = "https://api.example.test"


@pytest.fixture(scope="module", autouse=True)
def data_api(running: World) -> Iterator[None]:
    """The server has a data API while these tests run."""
    running.api.patch("pgs", SERVER_NAME, "", {"spec": {"dataAPI": {"url": URL}}})
    running.api.await_condition("pgs", SERVER_NAME, "", type_="DataAPIReady")
    yield
    running.api.patch("pgs", SERVER_NAME, "", {"spec": {"dataAPI": None}})


def says(world: World, team: str, name: str) -> tuple[str, str]:
    """Status and reason of the Tenant's DataAPIReady; empty where it says nothing."""
    conditions = world.api.get("tenant", name, team).get("status", {}).get("conditions", [])
    return next(((c["status"], c["reason"]) for c in conditions if c["type"] == "DataAPIReady"), ("", ""))


def comes_to(world: World, team: str, name: str, status: str, reason: str) -> None:
    wait_for(f"{name} says {reason}", lambda: says(world, team, name) == (status, reason))


def logins(world: World, name: str) -> list[tuple[Any, ...]]:
    return world.postgres.query(
        "SELECT rolname::text, rolcanlogin FROM pg_roles WHERE rolname ~ %s ORDER BY 1",
        [f"(^tenant_{name}_(anon|authenticated)|^vaultbrix_rest_{name})$"],
    )


def test_a_tenant_is_served_while_it_asks_for_it(world: World) -> None:
    team = world.team()
    name = world.tenant(team, dataAPI={})
    slug = name.replace("-", "_")
    world.api.await_condition("tenant", name, team, type_="DataAPIReady")
    tenant: Object = world.api.get("tenant", name, team)
    assert tenant["status"]["dataAPI"] == {"url": f"https://{name}.api.example.test"}
    served = [(f"tenant_{slug}_anon", False), (f"tenant_{slug}_authenticated", False), (f"vaultbrix_rest_{slug}", True)]
    assert logins(world, slug) == served
    # Its key says where.
    key = world.api_key(team, name)
    assert world.secret(team, f"{key}-api-key")["url"] == tenant["status"]["dataAPI"]["url"]

    world.api.patch("tenant", name, team, {"spec": {"dataAPI": {"enabled": False}}})
    comes_to(world, team, name, "False", "Disabled")
    assert logins(world, slug)[2] == (f"vaultbrix_rest_{slug}", False)
    world.api.patch("tenant", name, team, {"spec": {"dataAPI": {"enabled": True}, "suspended": True}})
    comes_to(world, team, name, "False", "TenantSuspended")
    assert logins(world, slug)[2] == (f"vaultbrix_rest_{slug}", False)
    world.api.patch("tenant", name, team, {"spec": {"suspended": False}})
    comes_to(world, team, name, "True", "Served")
    assert logins(world, slug) == served

    world.api.patch("tenant", name, team, {"spec": {"dataAPI": None}})
    comes_to(world, team, name, "", "")
    assert logins(world, slug) == []
    assert "dataAPI" not in world.api.get("tenant", name, team)["status"]


def test_an_operator_at_rest_or_started_again_writes_nothing(world: World) -> None:
    team = world.team()
    name = world.tenant(team, dataAPI={})
    world.api.await_condition("tenant", name, team, type_="DataAPIReady")
    version = world.api.get("tenant", name, team)["metadata"]["resourceVersion"]
    key = world.secret(JOBS, f"{SERVER_NAME}-data-api")
    labels = world.api.get("secret", f"{SERVER_NAME}-data-api", JOBS)["metadata"]["labels"]
    assert labels[FOR_SERVER] == SERVER_NAME
    restart_operator(world)
    marker = world.tenant(world.team(), dataAPI={})
    assert marker
    assert world.api.get("tenant", name, team)["metadata"]["resourceVersion"] == version
    assert world.secret(JOBS, f"{SERVER_NAME}-data-api") == key


def test_the_roles_go_with_the_tenant_also_while_the_operator_is_away(world: World) -> None:
    team = world.team()
    for policy in ("Delete", "Retain"):
        name = world.tenant(team, dataAPI={}, deletionPolicy=policy)
        slug = name.replace("-", "_")
        world.api.await_condition("tenant", name, team, type_="DataAPIReady")
        world.operator.stop()
        world.api.kubectl("-n", team, "delete", "tenant", name, "--wait=false")
        world.operator.start()
        wait_for("its roles are gone", lambda slug=slug: logins(world, slug) == [])  # type: ignore[misc]


def test_a_tenant_that_cannot_be_served_says_why(world: World) -> None:
    team = world.team()
    long = "a" * 43
    said = world.api.patch("tenant", world.tenant(team, name=long), team, {"spec": {"dataAPI": {}}})
    assert "dataAPI needs a slug of 42 characters at most" in said
    name = world.tenant(team)
    slug = name.replace("-", "_")
    world.postgres.query(f"CREATE ROLE tenant_{slug}_anon")
    world.api.patch("tenant", name, team, {"spec": {"dataAPI": {}}})
    comes_to(world, team, name, "False", "SlugTaken")
    # Nothing else of the Tenant is held up by it.
    world.api.await_condition("tenant", name, team)
    said = world.api.patch("tenant", name, team, {"spec": {"dataAPI": {"jwt": {"issuer": "x"}}}})
    assert "needs one of secretRef and jwksURL" in said


def test_without_a_data_api_of_the_server_the_tenant_waits_for_it(world: World) -> None:
    team = world.team()
    name = world.tenant(team, dataAPI={})
    world.api.await_condition("tenant", name, team, type_="DataAPIReady")
    try:
        world.api.patch("pgs", SERVER_NAME, "", {"spec": {"dataAPI": None}})
        comes_to(world, team, name, "False", "NoDataAPI")
        login = f"vaultbrix_rest_{name.replace('-', '_')}"
        locked = "SELECT NOT rolcanlogin FROM pg_roles WHERE rolname = %s"
        wait_for("its login is locked", lambda: world.postgres.query(locked, [login]) == [(True,)])
    finally:
        world.api.patch("pgs", SERVER_NAME, "", {"spec": {"dataAPI": {"url": URL}}})
    comes_to(world, team, name, "True", "Served")
