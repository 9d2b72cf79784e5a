"""What docs/ddl.md tells superusers: the code of a tenant has the rights of whoever runs it, SET ROLE or not."""

from collections.abc import Iterator

import psycopg
import pytest
from tests.harness.database import Database

# Takes the session's own role, as far as it can, and notes who it is then.
NOTE = (
    "CREATE FUNCTION note() RETURNS {returns} LANGUAGE plpgsql AS $$ BEGIN"
    " RESET SESSION AUTHORIZATION; RESET ROLE;"
    " INSERT INTO tenant_host.seen SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user;"
    " RETURN {value}; END $$"
)
TOUCH = {"trigger": "INSERT INTO tenant_host.t VALUES (1)", "view": "SELECT * FROM tenant_host.v"}


@pytest.fixture(scope="module")
def host(databases: tuple[Database, Database]) -> Iterator[Database]:
    """A tenant with a trigger and a view that call its function."""
    database = databases[0]
    with database.login(database.tenant("host")) as session:
        for statement in (
            "CREATE TABLE seen(who name, superuser boolean)",
            NOTE.format(returns="trigger", value="NEW"),
            "CREATE TABLE t(id int)",
            "CREATE TRIGGER note BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()",
            NOTE.format(returns="int", value="1").replace("note()", "noted()"),
            "CREATE VIEW v AS SELECT noted()",
        ):
            session.execute(statement.encode())
    yield database


def seen(database: Database, session: psycopg.Connection, *statements: str) -> list[tuple[str, bool]]:
    """As whom the tenant's code ran."""
    for statement in statements:
        session.execute(statement.encode())
    return database.postgres.query("DELETE FROM tenant_host.seen RETURNING who, superuser")


@pytest.mark.parametrize("touch", TOUCH.values(), ids=TOUCH)
@pytest.mark.parametrize("before", ["SELECT 1", "SET ROLE tenant_host", "SET SESSION AUTHORIZATION tenant_host"])
def test_a_tenants_code_has_the_rights_of_a_superuser_who_touches_it(host: Database, touch: str, before: str) -> None:
    with host.postgres.connect() as session:
        assert seen(host, session, before, touch) == [("postgres", True)]


@pytest.mark.parametrize("touch", TOUCH.values(), ids=TOUCH)
def test_it_has_only_the_tenants_in_a_session_of_the_tenant(host: Database, touch: str) -> None:
    with host.login("tenant_host") as session:
        assert seen(host, session, touch) == [("tenant_host", False)]
