"""What PostgREST does in the database for one request after another, statement by statement as a test wants it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from tests.harness.database import Database

from vaultbrix.dataapi.serving import schema

LOGIN = "vaultbrix_rest_tests"
PASSWORD = "postgrest-of-the-tests"


def serve_data_api(database: Database, *roles: str) -> None:
    """Let one login of PostgREST's take all these tenants' roles; all that it does is logged.

    The operator makes a login for each tenant: whose a line is must not depend on that.
    """
    database.admin(schema.install)
    login = sql.Identifier(LOGIN)
    with database.postgres.connect() as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN NOINHERIT PASSWORD {}").format(login, sql.Literal(PASSWORD)))
        admin.execute(sql.SQL("ALTER ROLE {} SET pgaudit.log = 'all'").format(login))
        for role in roles:
            tenant = sql.Identifier(role)
            admin.execute(sql.SQL("GRANT {} TO {}").format(tenant, login))
            for suffix in ("_anon", "_authenticated"):
                name = sql.Identifier(role + suffix)
                admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(name))
                admin.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(tenant, name))
                admin.execute(sql.SQL("GRANT {} TO {}").format(name, login))


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
