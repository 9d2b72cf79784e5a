"""Condition PgAuditSound is true of the pgAudit that is installed: it says whether logging breaks what tenants read.

On every version of PostgreSQL that the tests run with (VAULTBRIX_POSTGRES).
"""

from collections.abc import Iterator

import psycopg
import pytest
from tests.harness.database import Database
from tests.harness.database import running as database_running
from tests.harness.portals import PortalClient
from tests.harness.postgres import VERSION

from vaultbrix.servers.decisions import pgaudit_sound
from vaultbrix.servers.facts import read_facts

STACK = "pgaudit stack is not empty"
TENANT = "tenant_acme"
SETUP = """
CREATE TABLE m(a int, b int) PARTITION BY RANGE (a);
CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (1) TO (100);
INSERT INTO m SELECT n, n FROM generate_series(1, 9) n;
CREATE VIEW shown AS SELECT * FROM m;
CREATE FUNCTION open_immutable(c refcursor) RETURNS refcursor LANGUAGE plpgsql IMMUTABLE
  AS $$ BEGIN OPEN c FOR SELECT * FROM m; RETURN c; END $$;
CREATE FUNCTION open_volatile(c refcursor) RETURNS refcursor LANGUAGE plpgsql
  AS $$ BEGIN OPEN c FOR SELECT * FROM m; RETURN c; END $$;
CREATE PROCEDURE p(a int, OUT b int) LANGUAGE plpgsql AS $$ BEGIN b := a; END $$;
"""
# What a tenant reads without any pgAudit, and what pgAudit is known to break of it where it is not sound.
CURSORS = {
    "opened by an IMMUTABLE function": ("SELECT open_immutable('c')", True),
    "opened by a VOLATILE function": ("SELECT open_volatile('c')", False),
    "declared on a partitioned table": ("DECLARE c CURSOR FOR SELECT * FROM m", False),
    "declared on a view": ("DECLARE c CURSOR FOR SELECT * FROM shown", False),
}


@pytest.fixture(scope="module")
def audited() -> Iterator[Database]:
    with database_running() as database:
        database.tenant("acme")
        with database.login(TENANT) as session:
            session.execute(SETUP)
        yield database


@pytest.fixture(params=["all", "none"])
def logged(request: pytest.FixtureRequest, audited: Database) -> str:
    """What is logged of the tenant."""
    level: str = request.param
    audited.postgres.query(f"ALTER ROLE {TENANT} SET pgaudit.log = '{level}'")
    return level


def sound(database: Database) -> bool:
    state = pgaudit_sound(database.admin(read_facts))
    assert state.status is not None
    return state.status


def test_the_packages_are_those_that_docs_speak_of(audited: Database) -> None:
    facts = audited.admin(read_facts)
    if VERSION == "15":
        assert (facts.pgaudit, sound(audited)) == ("1.7", False)
    elif VERSION == "17":
        assert (facts.pgaudit, sound(audited)) == ("17.1", True)


@pytest.mark.parametrize("kind", CURSORS)
def test_a_cursor_reads_the_same_with_and_without_logging_unless_the_condition_says_so(
    audited: Database, logged: str, kind: str
) -> None:
    opening, broken = CURSORS[kind]
    with audited.login(TENANT) as session:
        session.execute("BEGIN")
        session.execute(opening)
        if broken and logged == "all" and not sound(audited):
            with pytest.raises(psycopg.InternalError, match=STACK):
                session.execute("FETCH ALL FROM c")
        else:
            assert len(session.execute("FETCH ALL FROM c").fetchall()) == 9


# Read in parts, whether it breaks when nothing is logged too, and its rows.
IN_PARTS = {
    "view": ("SELECT * FROM shown", False, 9),
    "partitioned table": ("SELECT * FROM m", False, 9),
    "procedure with an OUT argument": ("CALL p(1, null)", True, 1),
}


@pytest.mark.parametrize("between", ["SAVEPOINT s", "CREATE TEMPORARY TABLE y()", "SELECT 1"])
@pytest.mark.parametrize("kind", IN_PARTS)
def test_what_is_read_a_few_rows_at_a_time_goes_on_beside_other_commands_unless_the_condition_says_so(
    audited: Database, logged: str, kind: str, between: str
) -> None:
    text, breaks_unlogged, rows = IN_PARTS[kind]
    client = PortalClient(audited.postgres, **{"pgaudit.log": logged, "search_path": TENANT})
    client.query("BEGIN")
    came = client.open(text, "c", rows=1)
    client.query(between)
    came += client.fetch("c", rows=0)
    client.close()
    utility = not between.startswith("SELECT")
    if utility and not sound(audited) and (logged == "all" or breaks_unlogged):
        assert client.error == STACK
    else:
        assert (client.error, came) == (None, rows)
