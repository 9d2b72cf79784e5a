"""The data API from Tenant to row: operator, gateway, PostgREST, agent and PostgreSQL, all of them real."""

import os
import secrets
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from tests.harness.gateway_process import GatewayProcess
from tests.harness.network import SERVER
from tests.harness.processes import commands_ending_with
from tests.harness.shell import run, wait_for
from tests.harness.shop import Shop, served, user
from tests.harness.world import JOBS, SERVER_NAME, World

from vaultbrix.gateway.postgrest import socket_name

pytestmark = pytest.mark.usefixtures("data_api")

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def shop(running: World) -> Shop:
    shop = Shop(running)
    shop.run(
        "CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY, owner uuid DEFAULT auth.uid(), text text)",
        f"CREATE POLICY own ON notes TO {shop.role}_authenticated USING (owner = auth.uid())",
        f"GRANT USAGE ON SCHEMA {shop.role} TO {shop.role}_anon, {shop.role}_authenticated",
        f"GRANT SELECT, INSERT ON notes TO {shop.role}_authenticated",
    )
    # Takes an approval.
    running.postgres.query(f"ALTER TABLE {shop.role}.notes ENABLE ROW LEVEL SECURITY")
    return shop


def test_a_key_reads_and_writes_and_a_user_sees_what_is_theirs(gateway: GatewayProcess, shop: Shop) -> None:
    served(gateway, shop)
    publishable = shop.key("Publishable")
    wait_for("the key is known", lambda: gateway.ask(publishable) == 200)
    jane, joe = "0b3c8a52-33e5-4b1c-9c39-1f5f0c4f7f10", "5e0a1b0e-5a53-4a26-8a6c-0d5a6f3c9e01"
    for sub, text in ((jane, "jane's"), (joe, "joe's")):
        body = f'{{"text": "{text}"}}'.encode()
        made = gateway.send(publishable, "/rest/v1/notes", "POST", body, bearer=user(sub), **JSON)
        assert made.status == 201, made
    seen = gateway.send(publishable, "/rest/v1/notes?select=text", bearer=user(jane))
    assert seen.json == [{"text": "jane's"}]
    assert gateway.send(publishable, "/rest/v1/notes").json["code"] == "42501"
    assert len(gateway.send(shop.secret, "/rest/v1/notes?select=text").json) == 2


def test_a_changed_schema_is_served_by_itself(gateway: GatewayProcess, shop: Shop) -> None:
    served(gateway, shop)
    shop.run("CREATE TABLE later (id int)")
    assert served(gateway, shop, "/rest/v1/later").json == []
    shop.run("CREATE FUNCTION double(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2'")
    assert served(gateway, shop, "/rest/v1/rpc/double?n=21").json == 42


def test_the_description_of_the_api_names_the_address_of_the_server(
    world: World, gateway: GatewayProcess, shop: Shop
) -> None:
    served(gateway, shop)
    document = gateway.send(shop.secret, "/rest/v1/").json
    assert "/notes" in document["paths"]
    address = (document["schemes"], document["host"], document["basePath"])
    assert address == (["https"], "api.example.com:443", "/rest/v1")
    try:
        world.api.patch("pgs", SERVER_NAME, "", {"spec": {"dataAPI": {"url": "https://api.example.com:8443"}}})
        wait_for(
            "the address is the new one",
            lambda: served(gateway, shop, "/rest/v1/").json["host"] == "api.example.com:8443",
        )
    finally:
        world.api.patch("pgs", SERVER_NAME, "", {"spec": {"dataAPI": {"url": "https://api.example.com"}}})


def test_no_login_of_postgrest_becomes_another_tenant(world: World, gateway: GatewayProcess, shop: Shop) -> None:
    other = Shop(world)
    other.run("CREATE TABLE notes (text text)", "INSERT INTO notes VALUES ('theirs')")
    shop.run(
        "CREATE FUNCTION escape() RETURNS text LANGUAGE plpgsql AS $$ DECLARE seen text; BEGIN"
        f" SET LOCAL ROLE {other.role}; SELECT text INTO seen FROM {other.role}.notes; RETURN seen; END $$"
    )
    answer = wait_for(
        "the function is served", lambda: (a := gateway.send(shop.secret, "/rest/v1/rpc/escape")).status != 404 and a
    )
    assert (answer.status, answer.json["code"]) in ((403, "42501"), (405, "25006")), answer
    answer = gateway.send(shop.secret, "/rest/v1/rpc/escape", "POST", b"{}", **JSON)
    assert (answer.status, answer.json["code"]) == (403, "42501")
    assert "theirs" not in answer.body.decode()


def test_requests_that_come_while_postgrest_starts_wait_for_it(world: World, gateway: GatewayProcess) -> None:
    shop = Shop(world)
    shop.run("CREATE TABLE notes (text text)")
    served(gateway, shop)
    os.kill(commands_ending_with(f"{_socket(gateway, shop)}.conf")[0], signal.SIGTERM)
    wait_for("it has ended", lambda: not commands_ending_with(f"{_socket_name(shop)}.conf"))
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: gateway.send(shop.secret, "/rest/v1/notes").status, range(8)))
    assert answers == [200] * 8


def test_postgrest_that_dies_is_started_again(gateway: GatewayProcess, shop: Shop) -> None:
    served(gateway, shop)
    (process,) = commands_ending_with(f"{_socket(gateway, shop)}.conf")
    os.kill(process, signal.SIGKILL)
    served(gateway, shop)


def test_a_gateway_that_is_killed_leaves_no_postgrest_and_goes_on_when_started(
    gateway: GatewayProcess, shop: Shop
) -> None:
    served(gateway, shop)
    name = f"{_socket(gateway, shop)}.conf"
    gateway.process.kill()
    wait_for("no PostgREST is left", lambda: not commands_ending_with(name))
    gateway.start()
    served(gateway, shop)


def test_sessions_that_postgresql_ends_are_replaced(world: World, gateway: GatewayProcess, shop: Shop) -> None:
    served(gateway, shop)
    assert shop.pids()
    world.postgres.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename ^@ 'vaultbrix_'"
        " AND usename <> 'vaultbrix_agent'"
    )
    served(gateway, shop)
    shop.run("CREATE TABLE afterwards (id int)")
    assert served(gateway, shop, "/rest/v1/afterwards").json == []


def test_a_servers_key_is_replaced_by_deleting_its_secret(world: World, gateway: GatewayProcess, shop: Shop) -> None:
    served(gateway, shop)
    name = f"{SERVER_NAME}-data-api"
    before, password = world.secret(JOBS, name)["key"], _conninfo(gateway, shop)["password"]
    world.api.delete("secret", name, JOBS)
    wait_for("there is another key", lambda: world.secret(JOBS, name).get("key", before) != before)
    wait_for(
        "PostgREST logs in with another password",
        lambda: served(gateway, shop) and _conninfo(gateway, shop)["password"] != password,
    )
    world.postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename ^@ 'vaultbrix_rest_'")
    served(gateway, shop)


def test_what_is_switched_off_is_refused_and_its_sessions_end(world: World, gateway: GatewayProcess) -> None:
    shop = Shop(world)
    shop.run("CREATE TABLE notes (text text)")
    served(gateway, shop)
    world.api.patch("tenant", shop.name, shop.team, {"spec": {"suspended": True}})
    wait_for("it is refused", lambda: gateway.send(shop.secret, "/rest/v1/notes").status in (401, 403))
    wait_for("no session is left", lambda: not shop.pids())
    world.api.patch("tenant", shop.name, shop.team, {"spec": {"suspended": False}})
    served(gateway, shop)


def test_what_a_request_did_and_what_was_refused_is_on_record(
    world: World, gateway: GatewayProcess, shop: Shop
) -> None:
    served(gateway, shop)
    mark = secrets.token_hex(8)
    assert gateway.send(shop.secret, f"/rest/v1/notes?text=eq.{mark}").status == 200
    query = (
        "SELECT DISTINCT r.role, r.tenant, split_part(r.ground, '/', 1), host(r.address) FROM audit.record r"
        " WHERE r.kind = 'request' AND EXISTS (SELECT FROM audit.record s WHERE s.session_id = r.session_id"
        " AND s.vxid = r.vxid AND s.kind = 'statement' AND s.ground = r.ground AND s.statement LIKE '%%notes%%'"
        " AND s.line_num > r.line_num AND s.tenant = %s)"
    )
    tenant = f"{shop.team}/{shop.name}"
    wait_for(
        "the statement is on record with its key",
        lambda: (shop.role, tenant, f"key:{shop.team}", "203.0.113.7") in world.store.query(query, [tenant]),
    )
    revoked = world.api_key(shop.team, shop.name)
    text = world.secret(shop.team, f"{revoked}-api-key")["key"]
    wait_for("the key is known", lambda: gateway.ask(text) == 200)
    world.api.patch("apikey", revoked, shop.team, {"spec": {"revoked": True}})
    wait_for("the key is refused", lambda: gateway.ask(text) == 401)
    assert gateway.ask("vbx_secret_" + mark) == 401
    refused = "SELECT message::text FROM audit.record WHERE kind = 'refusal' AND tenant = %s AND ground = %s"
    wait_for("the refusal is on record", lambda: world.store.query(refused, [tenant, f"key:{shop.team}/{revoked}"]))
    wait_for("so is that of a key that nobody knows", lambda: world.store.query(
        "SELECT 1 FROM audit.record WHERE kind = 'refusal' AND message LIKE '%%KeyUnknown%%'"))  # fmt: skip
    assert world.store.query("SELECT count(*) FROM audit.record WHERE message LIKE %s", [f"%{text}%"]) == [(0,)]


def test_its_password_opens_nothing_from_elsewhere(world: World, gateway: GatewayProcess, shop: Shop) -> None:
    served(gateway, shop)
    conninfo = _conninfo(gateway, shop)
    world.network.client("198.51.100.77")
    environment = {"PGPASSWORD": str(conninfo["password"]), "PGCONNECT_TIMEOUT": "3", "PGSSLMODE": "require"}
    url = f"host={SERVER} port=5433 dbname=postgres user={conninfo['user']}"
    tried = run(*world.network.inside("198.51.100.77", ["psql", "-XAt", url, "-c", "SELECT 1"]), check=False,
                env=environment)  # fmt: skip
    assert tried.returncode != 0


def _socket_name(shop: Shop) -> str:
    return socket_name((shop.team, shop.name))


def _conninfo(gateway: GatewayProcess, shop: Shop) -> dict[str, Any]:
    """What the tenant's PostgREST logs in with."""
    text = (gateway.folder / f"{_socket(gateway, shop)}.conf").read_text()
    line = next(line for line in text.splitlines() if line.startswith("db-uri"))
    return psycopg.conninfo.conninfo_to_dict(line.partition("= ")[2].strip('"'))


def _socket(gateway: GatewayProcess, shop: Shop) -> str:
    return str(gateway.authorize(shop.secret).headers["x-vaultbrix-backend"])
