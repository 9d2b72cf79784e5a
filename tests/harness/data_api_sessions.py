"""What PostgREST does in the database for one request after another, statement by statement as a test wants it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
from tests.harness.database import Database
from tests.harness.known_keys import request
from tests.harness.postgrest import PASSWORD, SALT, served_roles

from vaultbrix.dataapi.serving import roles, schema
from vaultbrix.dataapi.serving.decisions import LISTENER, rest_login
from vaultbrix.gateway import refusals
from vaultbrix.gateway.refusals import Refusal, Why
from vaultbrix.gateway.refused import Entry, entry_of


def serve_data_api(database: Database, *roles: str) -> None:
    """Make what PostgREST needs of the database to serve these tenants, as the operator does."""
    database.admin(schema.install)
    for role in roles:
        served_roles(database, role.removeprefix("tenant_"))


def about(role: str, request: str, **more: str) -> dict[str, str]:
    """What the authorizer says of a request as one of a tenant's roles."""
    slug = role.removeprefix("tenant_").removesuffix("_anon").removesuffix("_authenticated")
    values = {"tenant": f"apps/{slug}", "key": "apps/web", "subject": "", "client": "198.51.100.7"}
    return {**values, "role": role, "request": request, **more}


def refused(refusal: Refusal, request_id: str, path: str = "/rest/v1/notes", **more: str) -> Entry:
    """What a gateway tells of a request that it has let in nowhere."""
    return {**entry_of(refusal, request(path)), "request": request_id, "client": "198.51.100.7", **more}


def note_refusals(database: Database, *entries: Entry) -> None:
    """Have them told in the database, as a gateway does."""
    database.admin(roles.ensure_listener, PASSWORD, SALT)
    with database.login(LISTENER, PASSWORD, application_name="vaultbrix-gateway") as connection:
        connection.execute("SELECT vaultbrix.note_refusals(%s::jsonb)", [json.dumps(entries)])


def key_refused(why: Why, slug: str, name: str) -> Refusal:
    """For a key of a tenant of the namespace ``apps`` that is known."""
    return replace(refusals.bad_key(why), key=("apps", name), tenant=("apps", slug))


class DataApiSession:
    """One connection in the pool of a tenant's PostgREST."""

    def __init__(self, database: Database, role: str) -> None:
        self.login = rest_login(role)
        self.connection: psycopg.Connection[Any] = database.login(self.login, PASSWORD, application_name="PostgREST")
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
