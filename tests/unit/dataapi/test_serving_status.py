"""DataAPIReady of Tenants and servers: who is served does not depend on what the operator reaches right now."""

from typing import TypeVar

import pytest
from tests.harness.builders import HOUR, NOW, named, server, tenant

from vaultbrix.api.conditions import Reason, StatusPart
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.serving.decisions import server_part, tenant_part
from vaultbrix.runtime.errors import Blocked, Expected, Transient

URL = "https://api.example.com"
AWAY = Transient(Reason.UNREACHABLE, "PostgreSQL cannot be reached")
ENDED = [Blocked(Reason.SLUG_TAKEN, "taken"), Transient(Reason.DATABASE_ERROR, "42704 role does not exist")]

R = TypeVar("R", Tenant, PostgresServer)


def with_part(resource: R, part: StatusPart) -> R:
    """The object once the part is written."""
    fields = {name: value for name, value in part.fields.items() if value is not None}
    return resource.parse({**resource.dump(), "status": {"conditions": [c.dump() for c in part.conditions], **fields}})


def served() -> Tenant:
    asking = tenant(dataAPI={})
    return with_part(asking, tenant_part(asking, URL, None, NOW))


def serving() -> PostgresServer:
    asked = server(dataAPI={"url": URL})
    return with_part(asked, server_part(asked, None, NOW))


def test_whoever_is_served_stays_so_while_postgresql_cannot_be_reached() -> None:
    for resource, part in (
        (served(), tenant_part(served(), URL, AWAY, NOW + HOUR)),
        (serving(), server_part(serving(), AWAY, NOW + HOUR)),
    ):
        assert with_part(resource, part).status == resource.status  # type: ignore[misc]


@pytest.mark.parametrize("failure", ENDED, ids=lambda failure: str(failure.reason))
def test_every_other_failure_is_told(failure: Expected) -> None:
    part = tenant_part(served(), URL, failure, NOW + HOUR)
    assert named(part.conditions, "DataAPIReady").reason == failure.reason
    assert part.fields == {"dataAPI": None}
    assert named(server_part(serving(), failure, NOW).conditions, "DataAPIReady").status == "False"


def test_what_was_never_served_or_is_asked_for_anew_is_not_called_served() -> None:
    before = served().dump()
    new, changed = tenant(dataAPI={}), Tenant.parse({**before, "metadata": {**before["metadata"], "generation": 7}})
    for asking in (new, changed):
        assert named(tenant_part(asking, URL, AWAY, NOW).conditions, "DataAPIReady").reason == Reason.UNREACHABLE


def test_a_server_that_lost_its_data_api_stays_as_it_was_until_everybody_is_locked_out() -> None:
    before = serving().dump()
    spec = {name: value for name, value in before["spec"].items() if name != "dataAPI"}
    ended = PostgresServer.parse({**before, "spec": spec})
    assert named(server_part(ended, AWAY, NOW).conditions, "DataAPIReady").reason == Reason.UNREACHABLE
    assert server_part(ended, None, NOW).conditions == []
