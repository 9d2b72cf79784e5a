"""What PostgREST does in the database for one request after another, statement by statement as a test wants it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from tests.harness.database import Database
from tests.harness.postgrest import LOGIN, PASSWORD, admit, make_login

PRE_REQUEST = """
DO $do$ BEGIN
  IF to_regprocedure('vaultbrix.pre_request()') IS NULL THEN
    CREATE FUNCTION vaultbrix.pre_request() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE claims text := current_setting('request.jwt.claims');
    BEGIN
      RAISE LOG 'REQUEST: %', (claims::jsonb->'vaultbrix')
        || jsonb_build_object('claims', encode(sha256(convert_to(claims, 'UTF8')), 'hex'));
    END $$;
  END IF;
END $do$
"""


def serve_data_api(database: Database, *roles: str) -> None:
    """Let a login of PostgREST's take these tenants' roles; all that it does is logged."""
    make_login(database)
    for role in roles:
        admit(database, role)
    database.postgres.query(PRE_REQUEST)
    with database.postgres.connect() as admin:
        admin.execute(f"ALTER ROLE {LOGIN} SET pgaudit.log = 'all'")


def about(role: str, request: str, **more: str) -> dict[str, str]:
    """What the authorizer says of a request as one of a tenant's roles."""
    values = {"tenant": "team/app", "key": "team/web", "subject": "", "client": "198.51.100.7"}
    return {**values, "role": role, "request": request, **more}


class DataApiSession:
    """One connection of PostgREST's pool."""

    def __init__(self, database: Database) -> None:
        self.connection: psycopg.Connection[Any] = database.login(LOGIN, PASSWORD, application_name="PostgREST")
        self.pid = self.connection.info.backend_pid

    @contextmanager
    def request(self, said: dict[str, str]) -> Iterator[psycopg.Connection[Any]]:
        """A request's transaction, from where its statements may follow to its end; rolled back after an error."""
        self.connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        self.connection.execute(
            "SELECT set_config('role', %s, true), set_config('request.jwt.claims', %s, true)",
            [said["role"], json.dumps({"role": "anon", "vaultbrix": said})],
        )
        self.connection.execute('SELECT "vaultbrix"."pre_request"()')
        try:
            yield self.connection
        except psycopg.Error:
            self.connection.execute("ROLLBACK")
        else:
            self.connection.execute("COMMIT")

    def close(self) -> None:
        """End it."""
        self.connection.close()
