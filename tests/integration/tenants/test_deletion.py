"""deletionPolicy Delete takes along nothing of others: it waits until nothing of theirs depends on the tenant."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.harness.database import Database, desired_role
from tests.harness.shell import wait_for
from tests.harness.tenants import CATALOG

from vaultbrix.runtime.errors import Blocked, Transient
from vaultbrix.tenants import deletion

# In the tenant's schema, for others to build on.
OFFERED = (
    "CREATE TABLE orders(id int PRIMARY KEY, note text)",
    "CREATE TYPE mood AS ENUM ('good', 'bad')",
    "CREATE TYPE pair AS (a int, b int)",
    "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "CREATE SEQUENCE numbers",
    "CREATE FUNCTION one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'",
    "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE VIEW look AS SELECT id FROM orders",
    "CREATE TABLE whole(id int) PARTITION BY LIST (id)",
)

# What another tenant makes, and what of it would go along with {role}: as the message names it, in {other}.
DEPENDENTS = {
    "column": ("CREATE TABLE {other}.t(a int, b {role}.mood)", "table column {other}.t.b"),
    "column of a composite type": ("CREATE TABLE {other}.t(a int, b {role}.pair)", "table column {other}.t.b"),
    "column of an array": ("CREATE TABLE {other}.t(a int, b {role}.mood[])", "table column {other}.t.b"),
    "typed table": ("CREATE TABLE {other}.t OF {role}.pair", "table {other}.t"),
    "domain": ("CREATE DOMAIN {other}.d AS {role}.positive", "type {other}.d"),
    "view": ("CREATE VIEW {other}.v AS SELECT id FROM {role}.orders", "view {other}.v"),
    "view of a view": ("CREATE VIEW {other}.v AS SELECT id FROM {role}.look", "view {other}.v"),
    "materialized view": (
        "CREATE MATERIALIZED VIEW {other}.m AS SELECT id FROM {role}.look",
        "materialized view {other}.m",
    ),
    "foreign key": (
        "CREATE TABLE {other}.t(id int REFERENCES {role}.orders)",
        "table constraint t_id_fkey on {other}.t",
    ),
    "default": ("CREATE TABLE {other}.t(id int DEFAULT {role}.one())", "default value for {other}.t.id"),
    "generated column": (
        "CREATE TABLE {other}.t(a int, b int GENERATED ALWAYS AS (a + {role}.one()) STORED)",
        "table column {other}.t.b",
    ),
    "default of a sequence": (
        "CREATE TABLE {other}.t(id int DEFAULT nextval('{role}.numbers'))",
        "default value for {other}.t.id",
    ),
    "check": (
        "CREATE TABLE {other}.t(id int, CONSTRAINT c CHECK (id > {role}.one()))",
        "table constraint c on {other}.t",
    ),
    "index": ("CREATE TABLE {other}.t(id int); CREATE INDEX i ON {other}.t((id + {role}.one()))", "index {other}.i"),
    "child": ("CREATE TABLE {other}.t() INHERITS ({role}.orders)", "table {other}.t"),
    "trigger": (
        "CREATE TABLE {other}.t(id int);"
        " CREATE TRIGGER g BEFORE INSERT ON {other}.t FOR EACH ROW EXECUTE FUNCTION {role}.noted()",
        "trigger g on {other}.t",
    ),
    "policy": (
        "CREATE TABLE {other}.t(id int); CREATE POLICY p ON {other}.t USING (id > {role}.one())",
        "policy p on {other}.t",
    ),
    "policy for the role": (
        "CREATE TABLE {other}.t(id int); CREATE POLICY p ON {other}.t TO {role} USING (true)",
        "policy p on {other}.t",
    ),
    "function": (
        "CREATE FUNCTION {other}.f({role}.mood) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function {other}.f({role}.mood)",
    ),
    "function with a parsed body": (
        "CREATE FUNCTION {other}.f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT {role}.one(); END",
        "function {other}.f()",
    ),
    "rule": (
        "CREATE TABLE {other}.t(id int); CREATE RULE r AS ON INSERT TO {other}.t DO ALSO SELECT {role}.one()",
        "rule r on {other}.t",
    ),
}

# What a superuser has made, with how it is taken away.
OF_A_SUPERUSER = {
    "in the schema": ("CREATE TABLE {role}.t(id int)", "table {role}.t", "DROP TABLE {role}.t"),
    "partition": (
        "CREATE TABLE public.part PARTITION OF {role}.whole FOR VALUES IN (1)",
        "table public.part",
        "DROP TABLE public.part",
    ),
    "extension": ("CREATE EXTENSION hstore SCHEMA {role}", "extension hstore", "DROP EXTENSION hstore"),
    "database": (
        "ALTER DATABASE template1 OWNER TO {role}",
        "database template1",
        "ALTER DATABASE template1 OWNER TO postgres",
    ),
}

numbers = itertools.count(1)


@pytest.fixture
def role(database: Database) -> str:
    role = database.tenant(f"gone{next(numbers)}")
    with database.login(role) as session:
        for statement in OFFERED:
            session.execute(statement.encode())
    return role


def drop(database: Database, role: str) -> None:
    database.admin(deletion.drop, role, desired_role(role).owner.uid)


def refusal(database: Database, role: str) -> str:
    with pytest.raises(Blocked) as error:
        drop(database, role)
    assert error.value.reason == "DependentsRemain"
    assert database.postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [role]) == [(False,)]
    return error.value.message


def gone(database: Database, role: str) -> bool:
    return not [row for row in database.postgres.query(CATALOG) if row[1] == role]


@pytest.mark.parametrize("kind", DEPENDENTS)
def test_what_another_tenant_has_built_on_it_stays_and_is_named(database: Database, role: str, kind: str) -> None:
    text, named = DEPENDENTS[kind]
    other = database.tenant(f"other{next(numbers)}")
    with database.login(role) as session:
        session.execute(f"GRANT USAGE ON SCHEMA {role} TO {other}".encode())
        session.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {role} TO {other}".encode())
        session.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {role} TO {other}".encode())
    if kind in ("child", "rule"):
        # The one needs the ownership of both, the other an approval.
        database.postgres.query(text.format(role=role, other=other))
        database.postgres.query(f"ALTER TABLE {other}.t OWNER TO {other}")
    else:
        with database.login(other) as session:
            session.execute(text.format(role=role, other=other).encode())
    before = database.postgres.query(f"SELECT count(*) FROM pg_depend WHERE refobjid = '{other}'::regnamespace")
    message = refusal(database, role)
    assert f": {named.format(role=role, other=other)}; " in message, "each is named, and nothing else"
    after = database.postgres.query(f"SELECT count(*) FROM pg_depend WHERE refobjid = '{other}'::regnamespace")
    assert after == before
    assert database.postgres.query(f"SELECT count(*) FROM {role}.orders") == [(0,)]
    drop(database, other)
    drop(database, role)
    assert gone(database, role)


@pytest.mark.parametrize("kind", OF_A_SUPERUSER)
def test_what_a_superuser_has_made_stays_and_is_named(database: Database, role: str, kind: str) -> None:
    text, named, away = (part.format(role=role) for part in OF_A_SUPERUSER[kind])
    database.postgres.query(text)
    try:
        assert f": {named}; " in refusal(database, role)
    finally:
        database.postgres.query(away)
    drop(database, role)
    assert gone(database, role)


def test_what_it_has_in_another_database_is_named(database: Database, role: str) -> None:
    database.postgres.query("CREATE DATABASE elsewhere")
    try:
        database.postgres.query(f"GRANT CREATE ON DATABASE elsewhere TO {role}")
        with database.login(role, dbname="elsewhere") as session:
            session.execute("CREATE SCHEMA theirs")
        assert "what it has in database elsewhere" in refusal(database, role)
    finally:
        database.postgres.query("DROP DATABASE elsewhere")
    drop(database, role)
    assert gone(database, role)


def test_what_is_made_while_it_is_dropped_stays_too(database: Database, role: str) -> None:
    database.postgres.query(f"CREATE SCHEMA late{role}")
    with database.postgres.connect() as session, ThreadPoolExecutor() as pool:
        session.execute("BEGIN")
        session.execute(f"CREATE VIEW late{role}.v AS SELECT id FROM {role}.orders")
        dropping = pool.submit(drop, database, role)
        wait_for(
            "the drop waits for the one who makes it",
            lambda: database.postgres.query("SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"),
        )
        session.execute("COMMIT")
        with pytest.raises(Transient, match=f"view late{role}.v"):
            dropping.result()
    assert f"view late{role}.v" in refusal(database, role)
    database.postgres.query(f"DROP SCHEMA late{role} CASCADE")
    drop(database, role)


def test_a_long_list_is_cut(database: Database, role: str) -> None:
    database.postgres.query(f"CREATE SCHEMA long{role}")
    for n in range(9):
        database.postgres.query(f"CREATE VIEW long{role}.v{n} AS SELECT id FROM {role}.orders")
    message = refusal(database, role)
    assert f"view long{role}.v0" in message
    assert "and 4 more" in message
    database.postgres.query(f"DROP SCHEMA long{role} CASCADE")
    drop(database, role)


def test_what_is_the_tenants_alone_goes_whole(database: Database, role: str) -> None:
    with database.login(role) as session:
        for statement in (
            "CREATE TABLE kinds(id serial PRIMARY KEY, m mood, p positive DEFAULT one(), o int REFERENCES orders)",
            "CREATE INDEX ON kinds((id + one()))",
            "CREATE TRIGGER t BEFORE INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION noted()",
            "CREATE POLICY p ON kinds USING (id > one())",
            "CREATE MATERIALIZED VIEW m AS SELECT * FROM kinds",
            "CREATE TABLE part PARTITION OF whole FOR VALUES IN (1)",
            "CREATE STATISTICS s ON id, m FROM kinds",
            "CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int)",
            "CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)",
            'CREATE COLLATION plain FROM "C"',
            "CREATE TEXT SEARCH CONFIGURATION words (COPY = simple)",
            "SELECT lo_create(0)",
        ):
            session.execute(statement.encode())
    # Without an approval only a superuser can.
    database.postgres.query(f"CREATE RULE r AS ON INSERT TO {role}.kinds DO ALSO SELECT {role}.one()")
    drop(database, role)
    assert gone(database, role)
