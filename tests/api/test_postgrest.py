"""What the gateway rests on: how PostgREST treats tokens and profiles."""

import time

import pytest
from tests.harness.database import Database
from tests.harness.postgrest import PostgREST, token
from tests.harness.shell import run


def headers(bearer: str, profile: str = "tenant_acme") -> dict[str, str]:
    return {"Authorization": f"Bearer {bearer}", "Accept-Profile": profile}


def test_the_role_is_what_the_gateways_own_claim_says(postgrest: PostgREST) -> None:
    answer = postgrest.send("GET", "/notes?select=text", headers(token(vaultbrix={"role": "tenant_acme"}, role="anon")))
    assert (answer.status, answer.json) == (200, [{"text": "acme's own"}])


@pytest.mark.parametrize("role", ["tenant_acme_anon", "tenant_acme_authenticated"])
def test_a_role_without_rights_reads_nothing(postgrest: PostgREST, role: str) -> None:
    answer = postgrest.send("GET", "/notes", headers(token(vaultbrix={"role": role})))
    assert (answer.status, answer.json["code"]) == (403, "42501")


def test_no_token_of_anybody_else_is_accepted(postgrest: PostgREST) -> None:
    claims = {"vaultbrix": {"role": "tenant_acme"}}
    assert postgrest.send("GET", "/notes", {}).status == 401
    assert postgrest.send("GET", "/notes", headers(token(b"x" * 32, **claims))).status == 401
    assert postgrest.send("GET", "/notes", headers(token(role="tenant_acme"))).status == 401
    assert postgrest.send("GET", "/notes", headers(token(exp=int(time.time()) - 60, **claims))).status == 401


def test_an_unknown_profile_is_answered_with_this_tenant_alone(postgrest: PostgREST) -> None:
    answer = postgrest.send("GET", "/notes", headers(token(vaultbrix={"role": "tenant_acme"}), "tenant_nobody"))
    assert answer.status == 406
    assert answer.json["message"] == "The schema must be one of the following: tenant_acme"


@pytest.mark.parametrize("become", ["SET LOCAL ROLE {other}", "PERFORM set_config('role', '{other}', true)"])
def test_code_of_a_tenant_cannot_become_another_tenant(postgrest: PostgREST, database: Database, become: str) -> None:
    with database.login("tenant_acme") as session:
        session.execute(
            "CREATE OR REPLACE FUNCTION escape() RETURNS text LANGUAGE plpgsql AS $f$ DECLARE seen text; BEGIN"
            f" {become.format(other='tenant_globex')}; SELECT text INTO seen FROM tenant_globex.notes; RETURN seen;"
            " END $f$"
        )
    postgrest.read_again()
    for role in ("tenant_acme", "tenant_acme_anon"):
        answer = postgrest.send("POST", "/rpc/escape", headers(token(vaultbrix={"role": role})))
        assert (answer.status, answer.json["code"]) == (403, "42501"), answer


def test_a_role_of_another_tenant_is_not_to_be_had(postgrest: PostgREST) -> None:
    answer = postgrest.send("GET", "/notes", headers(token(vaultbrix={"role": "tenant_globex"})))
    assert (answer.status, answer.json["code"]) == (403, "42501")


def test_no_other_machine_reaches_it_past_the_gateway(postgrest: PostgREST) -> None:
    listening = run("ss", "--tcp", "--listening", "--numeric", "--processes", "--no-header").stdout.splitlines()
    addresses = [line.split()[3] for line in listening if f"pid={postgrest.pid}," in line]
    assert addresses
    assert all(address.startswith("127.0.0.1:") for address in addresses), addresses
