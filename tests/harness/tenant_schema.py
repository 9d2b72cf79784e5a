"""A tenant with a bit of everything in its schema, and what it must not be able to do."""

from dataclasses import dataclass

import psycopg
from tests.harness.database import Database, send

SCENE = (
    "CREATE TYPE kind AS ENUM ('a', 'b')",
    "CREATE TABLE victim(id int PRIMARY KEY, v text, k kind)",
    "INSERT INTO victim SELECT n, 'v' || n, 'a' FROM generate_series(1, 3) n",
    "CREATE TABLE other(id int)",
    "CREATE INDEX by_v ON victim(v)",
    "CREATE SEQUENCE numbers",
    "CREATE VIEW look AS SELECT id FROM victim",
    "CREATE MATERIALIZED VIEW kept AS SELECT id FROM victim",
    "CREATE TABLE parts(id int) PARTITION BY LIST (id)",
    "CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1)",
    "INSERT INTO parts VALUES (1)",
    "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$",
    "CREATE TRIGGER stamp BEFORE INSERT ON victim FOR EACH ROW EXECUTE FUNCTION stamp()",
    "CREATE TABLE copied AS TABLE victim",
    "SELECT * INTO chosen FROM victim",
    "EXPLAIN ANALYZE CREATE TABLE explained AS TABLE victim",
    "CREATE FUNCTION drops() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE victim CASCADE; END $$",
    "CREATE FUNCTION drops_sql() RETURNS void LANGUAGE sql AS 'TRUNCATE victim'",
    "CREATE FUNCTION drops_as_owner() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = {role}"
    " AS $$ BEGIN EXECUTE 'DROP TABLE vic' || 'tim CASCADE'; END $$",
    "CREATE FUNCTION drops_on_insert() RETURNS trigger LANGUAGE plpgsql"
    " AS $$ BEGIN DROP TABLE victim CASCADE; RETURN new; END $$",
    "CREATE TRIGGER drops AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION drops_on_insert()",
    "CREATE PROCEDURE drops_after_commit() LANGUAGE plpgsql AS $$ BEGIN COMMIT; DROP TABLE victim CASCADE; END $$",
)


ATTACKS = (
    "DROP TABLE victim CASCADE",
    "/* harmless */ DROP TABLE victim CASCADE -- CREATE TABLE",
    "DROP VIEW look",
    "DROP MATERIALIZED VIEW kept",
    "DROP INDEX by_v",
    "DROP INDEX CONCURRENTLY by_v",
    "DROP SEQUENCE numbers",
    "DROP TYPE kind CASCADE",
    "DROP FUNCTION stamp() CASCADE",
    "DROP TRIGGER stamp ON victim",
    "DROP OWNED BY {role}",
    "DROP SCHEMA {role} CASCADE",
    "ALTER TABLE victim DROP COLUMN v",
    "ALTER TABLE victim ADD COLUMN w int",
    "ALTER TABLE victim RENAME TO gone",
    "ALTER TABLE victim ALTER COLUMN v TYPE int USING 0",
    "ALTER TABLE victim SET UNLOGGED",
    "ALTER TABLE victim DISABLE TRIGGER ALL",
    "ALTER TABLE victim DISABLE TRIGGER USER",
    "DROP TRIGGER vaultbrix_truncate_guard ON victim",
    "ALTER TABLE parts DETACH PARTITION part1",
    "ALTER SEQUENCE numbers START WITH 1000",
    "ALTER VIEW look RENAME TO gone",
    "ALTER FUNCTION stamp() RENAME TO gone",
    "ALTER TYPE kind RENAME VALUE 'a' TO 'z'",
    "ALTER INDEX by_v RENAME TO gone",
    "CREATE RULE silent AS ON INSERT TO victim DO INSTEAD NOTHING",
    "TRUNCATE victim",
    "TRUNCATE TABLE ONLY victim RESTART IDENTITY CASCADE",
    "TRUNCATE parts",
    "TRUNCATE part1",
    "TRUNCATE copied",
    "TRUNCATE chosen",
    "SELECT 1; DROP TABLE victim CASCADE; SELECT 1",
    "BEGIN; SAVEPOINT a; DROP TABLE victim CASCADE; COMMIT",
    "DO $$ BEGIN DROP TABLE victim CASCADE; END $$",
    "DO $$ BEGIN TRUNCATE victim; END $$",
    "SELECT drops()",
    "SELECT drops_sql()",
    "SELECT drops_as_owner()",
    "INSERT INTO other VALUES (1)",
    "CALL drops_after_commit()",
    "SET standard_conforming_strings = off; DROP TABLE victim CASCADE",
    "SET search_path = pg_temp, {role}; DROP TABLE victim CASCADE",
    "CREATE TEMP TABLE own(); DROP TABLE victim CASCADE",
    "CREATE TEMP TABLE own(); ALTER TABLE victim DROP COLUMN v",
    "CREATE TEMP TABLE own(); DROP TABLE own, {role}.victim CASCADE",
    "CREATE TEMP TABLE victim(); TRUNCATE {role}.victim",
    "SET client_encoding = 'LATIN1'; DROP TABLE victim CASCADE",
)


# What no tenant has the privilege for; {other} is another tenant's role.
FORBIDDEN = (
    "SELECT * FROM {other}.victim",
    "INSERT INTO {other}.victim VALUES (9)",
    "CREATE TABLE {other}.mine()",
    "CREATE TABLE public.mine()",
    "CREATE SCHEMA mine",
    "SELECT * FROM vaultbrix.tenant",
    "SELECT * FROM vaultbrix.ddl_pass",
    "INSERT INTO vaultbrix.exempt_role VALUES ('{role}')",
    "UPDATE vaultbrix.ddl_pass SET expires_at = 'infinity'",
    "DELETE FROM vaultbrix.ddl_pass_use",
    "CREATE FUNCTION vaultbrix.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "SELECT vaultbrix.use_pass('DROP TABLE', false, NULL, true, NULL)",
    "SELECT vaultbrix.ensure_guard(NULL)",
    "SELECT vaultbrix.repair()",
    "SET pgaudit.log = 'none'",
    "ALTER ROLE {role} SET pgaudit.log = 'none'",
    "ALTER ROLE {role} IN DATABASE postgres SET pgaudit.log = 'none'",
    "SELECT set_config('pgaudit.log', 'none', false)",
    "SET session_replication_role = replica",
    "SET log_duration = off",
    "SET log_min_messages = panic",
    "SET log_min_error_statement = panic",
    "SET ROLE postgres",
    "SET ROLE vaultbrix_gate",
    "SET ROLE {other}",
    "ALTER EVENT TRIGGER vaultbrix_drop DISABLE",
    "DROP EVENT TRIGGER vaultbrix_drop",
    "CREATE EVENT TRIGGER mine ON sql_drop EXECUTE FUNCTION vaultbrix.et_drop()",
    "ALTER SYSTEM SET pgaudit.log = 'none'",
    "ALTER ROLE {role} SUPERUSER",
    "CREATE ROLE mine",
    "COPY (SELECT 1) TO '/tmp/vaultbrix-mine'",
)  # fmt: skip


@dataclass(frozen=True)
class TenantSchema:
    """A tenant with a bit of everything in its schema."""

    database: Database
    role: str

    def send(self, message: str, connection: psycopg.Connection | None = None) -> psycopg.pq.abc.PGresult:
        """One message as the tenant."""
        text = message.format(role=self.role)
        if connection is not None:
            return send(connection, text)
        with self.database.login(self.role) as own:
            return send(own, text)

    def look(self) -> list[tuple[object, ...]]:
        """All that there is in the schema, to the last row and trigger."""
        return self.database.postgres.query(
            "SELECT 'class', relname::text, relkind::text || relpersistence::text || relispartition::text FROM pg_class"
            " WHERE relnamespace = to_regnamespace(%(role)s)"
            " UNION ALL SELECT 'column', attrelid::regclass::text || '.' || attname, atttypid::regtype::text"
            " FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid"
            " WHERE relnamespace = to_regnamespace(%(role)s) AND attnum > 0"
            " UNION ALL SELECT 'trigger', tgrelid::regclass::text || tgname, tgenabled::text || tgfoid::regproc"
            " FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace = to_regnamespace(%(role)s)"
            " UNION ALL SELECT 'rule', rulename::text, ev_class::regclass::text FROM pg_rewrite r"
            " JOIN pg_class c ON c.oid = ev_class WHERE relnamespace = to_regnamespace(%(role)s)"
            " UNION ALL SELECT 'function', proname::text, '' FROM pg_proc"
            " WHERE pronamespace = to_regnamespace(%(role)s)"
            " UNION ALL SELECT 'label', enumlabel::text, '' FROM pg_enum e JOIN pg_type t ON t.oid = enumtypid"
            " WHERE typnamespace = to_regnamespace(%(role)s)"
            " UNION ALL SELECT 'sequence', sequencename::text, start_value || '/' || min_value FROM pg_sequences"
            " WHERE schemaname = %(role)s"
            " UNION ALL SELECT 'rows', relname::text, (xpath('//n/text()', query_to_xml(format("
            " 'SELECT count(*) AS n FROM %%I.%%I', nspname, relname), false, true, '')))[1]::text"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname = %(role)s AND relkind IN ('r', 'm')"
            " ORDER BY 1, 2, 3",
            {"role": self.role},  # type: ignore[arg-type]
        )


def code(result: psycopg.pq.abc.PGresult) -> str:
    return (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
