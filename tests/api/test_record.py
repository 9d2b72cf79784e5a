"""What a real PostgREST does in the database is on record with key, user, client address and request."""

import json
from datetime import UTC, datetime
from uuid import uuid4

from tests.harness.data_api_sessions import about, serve_data_api
from tests.harness.postgrest import PostgREST
from tests.harness.shell import wait_for
from tests.harness.shipping import shipping

from vaultbrix.dataapi.serving.decisions import rest_login
from vaultbrix.gateway.jwt import mint

SECRET = bytes(range(32))
ROLE = "tenant_app"


def test_each_statement_of_postgrests_is_of_its_request() -> None:
    with shipping() as parts:
        parts.database.tenant("app")
        serve_data_api(parts.database)
        with parts.database.login(ROLE) as connection:
            connection.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)")
        server = PostgREST(parts.path, parts.database, "app", SECRET)

        def send(method: str, target: str, body: bytes = b"", **said: str) -> tuple[int, str]:
            request = uuid4().hex
            claims = {"role": "service_role", "vaultbrix": about(said.pop("role", ROLE), request, **said)}
            headers = {
                "Authorization": f"Bearer {mint(SECRET, claims, datetime.now(UTC))}",
                "Content-Type": "application/json",
                "Accept-Profile": ROLE,
                "Content-Profile": ROLE,
            }
            return server.send(method, target, headers, body).status, request

        try:
            server.serve()
            made, insert = send("POST", "/notes", json.dumps({"id": 1, "text": "x"}).encode(), key="apps/app")
            twice, conflict = send("POST", "/notes", json.dumps({"id": 1, "text": "x"}).encode(), subject="jane")
            read, select = send("GET", "/notes?id=eq.1", client="2001:db8::7", subject="joe")
            denied, refused = send("GET", "/notes", role=f"{ROLE}_anon")
        finally:
            server.stop()
        assert (made, twice, read, denied) == (201, 409, 200, 403)

        def statements(request: str) -> list[tuple[object, ...]]:
            return parts.store.query(
                "SELECT s.role, s.person, s.ground, host(s.address), coalesce(s.command, 'none'), s.outcome"
                "  FROM audit.hits(jsonb_build_object('request', %s::text), now() - interval '1 hour',"
                "                  now() + interval '1 hour', false, NULL, 100) h"
                "  JOIN audit.statement s USING (server, session_id, line_num) ORDER BY line_num",
                [request],
            )

        wait_for(
            "PostgREST's sessions have ended",
            lambda: (
                parts.store.query(
                    "SELECT count(DISTINCT session_id) FILTER (WHERE kind = 'request') > 0 AND count(*) FILTER"
                    " (WHERE kind = 'disconnection') = count(DISTINCT session_id)"
                    "  FROM audit.record WHERE session_id IN (SELECT session_id FROM audit.record WHERE role = %s)",
                    [rest_login(ROLE)],
                )
                == [(True,)]
            ),
            tell=parts.shipper.text,
        )
        mine = (ROLE, "", "key:apps/app", "198.51.100.7")
        assert statements(insert) == [(*mine, "INSERT", "ok"), (*mine, "COMMIT", "ok")]
        mine = (ROLE, "user:jane", "key:apps/web", "198.51.100.7")
        assert statements(conflict) == [(*mine, "INSERT", "error"), (*mine, "ROLLBACK", "ok")]
        mine = (ROLE, "user:joe", "key:apps/web", "2001:db8::7")
        assert statements(select) == [(*mine, "SELECT", "ok"), (*mine, "COMMIT", "ok")]
        mine = (f"{ROLE}_anon", "", "key:apps/web", "198.51.100.7")
        assert [row[:4] for row in statements(refused)] == [mine] * 2
        kinds = parts.store.query("SELECT kind, count(*) FROM audit.record WHERE message LIKE 'REQUEST: %%' GROUP BY 1")
        assert kinds == [("request", 4)]
