"""PostgREST's full syntax arrives: through nginx and gateway a request gets what PostgREST itself answers."""

from collections.abc import Callable, Iterator, Mapping

import pytest
from tests.harness.api_requests import ApiRequest, read_requests
from tests.harness.database import directory, running
from tests.harness.films import make_films
from tests.harness.gateway import Api, in_front_of
from tests.harness.http_messages import Answer
from tests.harness.known_keys import user_header
from tests.harness.postgrest import PostgREST, served_roles, token
from tests.harness.shell import TOP

from vaultbrix.dataapi.serving import schema

# PostgREST repeats the query in a header of its answer.
LONG = ApiRequest(0, 200, "GET", f"/films?id=in.({','.join(map(str, range(3000)))})&select=id", "")
REQUESTS = [LONG, *read_requests()]
JSON = ("Content-Type", "application/json")


def within_the_api(path: str | None) -> str | None:
    return f"/rest/v1{path}" if path is not None and path.startswith("/") else path


def the_last(values: str | None) -> str | None:
    return values.rpartition(", ")[2] if values is not None else None


# All that a client may see differently than from PostgREST itself, by header, and why.
DIFFERENCES: Mapping[str, tuple[Callable[[str | None], str | None], str]] = {
    "location": (within_the_api, "the API is not at the root of its host"),
    "content-location": (within_the_api, "the API is not at the root of its host"),
    "content-type": (the_last, "PostgREST gives two to some errors, and HTTP allows one"),
    "content-profile": (lambda _: None, "nobody chooses a schema, and its name is nobody's business"),
    "set-cookie": (lambda _: None, "all tenants share a host"),
    "server": (lambda _: "nginx", "it is nginx that answers"),
    "x-content-type-options": (lambda _: "nosniff", "what a tenant stores is never run as a script"),
}
# Of one connection, or of one answer, and of no other.
NOT_COMPARED = {"connection", "date", "keep-alive", "transfer-encoding", "x-request-id"}


class Twins:
    """Two databases with the same content, one behind nginx and gateway, one behind PostgREST alone."""

    def __init__(self, api: Api, alone: PostgREST) -> None:
        self._api = api
        self._alone = alone

    def through_the_gateway(self, sent: ApiRequest) -> Answer:
        key = self._api.publishable if sent.caller else self._api.secret
        user = [user_header("acme", sub=sent.caller)] if sent.caller not in ("", "anon") else []
        headers = [("apikey", key["acme"]), *user, *_headers(sent)]
        return self._api.nginx.send(sent.method, f"/rest/v1{sent.target}", headers, sent.body)

    def straight(self, sent: ApiRequest) -> Answer:
        policy_role = {"": "service_role", "anon": "anon"}.get(sent.caller, "authenticated")
        role = "tenant_acme" if not sent.caller else f"tenant_acme_{policy_role}"
        subject = {"sub": sent.caller} if policy_role == "authenticated" else {}
        bearer = token(role=policy_role, vaultbrix={"role": role}, **subject)
        profile = [("Accept-Profile", "tenant_acme"), ("Content-Profile", "tenant_acme")]
        headers = [("Authorization", f"Bearer {bearer}"), *profile, *_headers(sent)]
        return self._alone.send(sent.method, sent.target, headers, sent.body)


def _headers(sent: ApiRequest) -> list[tuple[str, str]]:
    given = {name.lower() for name, _ in sent.headers}
    return [*sent.headers, *([JSON] if sent.body and "content-type" not in given else [])]


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    with running() as database, directory() as folder:
        database.admin(schema.install)
        role = database.tenant("acme")
        served_roles(database, "acme")
        make_films(database, role)
        database.postgres.query("CREATE DATABASE twin TEMPLATE postgres")
        sockets, elsewhere = folder / "sockets", folder / "elsewhere"
        for made in (sockets, elsewhere):
            made.mkdir()
            made.chmod(0o755)
        behind, alone = PostgREST(sockets, database, "acme"), PostgREST(elsewhere, database, "acme", name="twin")
        try:
            behind.serve()
            alone.serve()
            with in_front_of(sockets, folder) as front:
                yield Twins(front.api(["acme"]), alone)
        finally:
            behind.stop()
            alone.stop()


@pytest.fixture(scope="module")
def answers(twins: Twins) -> Mapping[int, tuple[Answer, Answer]]:
    """What PostgREST and the gateway answer to each request, by its line. All run, so that each finds the same rows."""
    return {sent.line: (twins.straight(sent), twins.through_the_gateway(sent)) for sent in REQUESTS}


def compared(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in headers.items() if name not in NOT_COMPARED}


def expected(headers: Mapping[str, str]) -> Mapping[str, str]:
    """What the gateway makes of PostgREST's headers."""
    changed = {name: change(headers.get(name)) for name, (change, _) in DIFFERENCES.items()}
    return {name: value for name, value in {**compared(headers), **changed}.items() if value is not None}


@pytest.mark.parametrize("sent", REQUESTS, ids=str)
def test_a_request_gets_what_postgrest_answers(sent: ApiRequest, answers: Mapping[int, tuple[Answer, Answer]]) -> None:
    straight, through = answers[sent.line]
    assert (through.status, through.body) == (straight.status, straight.body)
    assert compared(through.headers) == expected(straight.headers)
    assert straight.status == sent.status, straight


def test_the_page_names_each_difference() -> None:
    differences = (TOP / "docs/api.md").read_text().split("## What differs")[1].split("\n## ")[0].lower()
    assert [name for name in DIFFERENCES if f"`{name}`" not in differences] == []


def test_there_are_many_different_requests() -> None:
    different = {(r.method, r.target, r.caller, tuple(r.headers), r.body) for r in REQUESTS}
    assert len(different) >= 300
