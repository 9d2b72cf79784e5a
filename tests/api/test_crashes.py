"""Parts of the data API that die under load: an error in PostgREST's form meanwhile, and never another's rows."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.harness.database import Database
from tests.harness.gateway import Api, AuthorizerThread, Nginx
from tests.harness.http_messages import Answer
from tests.harness.known_keys import DOMAIN, RSA_KEY, KnownInMemory, jwks, user_token
from tests.harness.postgrest import PostgREST
from tests.harness.shell import wait_for

from vaultbrix.gateway.jwt import Users, keys_of_jwks

TENANTS = ("acme", "globex")


@dataclass
class Seen:
    """What clients of both tenants were answered, by status; ``wrong`` are answers that nobody may get."""

    answers: Counter[int] = field(default_factory=Counter)
    wrong: list[Answer] = field(default_factory=list)

    def take(self, slug: str, answer: Answer) -> None:
        """Count an answer."""
        self.answers[answer.status] += 1
        if answer.status == 200:
            good = {row["text"].startswith(f"{slug}'s") for row in answer.json} == {True}
        else:
            # PostgREST 12 says 400 where PostgreSQL's end cut a statement off: without a code, or with 57P01 to 57P03.
            cut_off = answer.json["code"][:3] in ("", "57P")
            good = (answer.status in {500, 503, 504} or cut_off) and {"message", "details", "hint"} <= set(answer.json)
        if not good or any(other in answer.body.decode() for other in TENANTS if other != slug):
            self.wrong.append(answer)


@contextlib.contextmanager
def traffic(api: Api) -> Iterator[Seen]:
    """Two clients of each tenant that read their own notes all the time."""
    seen, ended = Seen(), threading.Event()

    def read(slug: str) -> None:
        while not ended.is_set():
            answer = api.nginx.send("GET", "/rest/v1/notes?select=text&limit=1", [("apikey", api.secret[slug])])
            seen.take(slug, answer)

    clients = [threading.Thread(target=read, args=[slug]) for slug in TENANTS * 2]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        ended.set()
        for client in clients:
            client.join()


def await_answers(seen: Seen, wanted: Callable[[Counter[int]], bool]) -> None:
    """Wait until clients were answered so, counted from now on."""
    before = Counter(seen.answers)
    wait_for("clients are answered", lambda: wanted(seen.answers - before), tell=lambda: seen)


def test_a_postgrest_that_is_killed_answers_nobody_with_anothers_rows(
    api: Api, shards: Mapping[str, PostgREST]
) -> None:
    with traffic(api) as seen:
        for killed in shards.values():
            await_answers(seen, lambda answers: answers[200] > 20)
            killed.kill()
            try:
                # The other tenant is served on.
                await_answers(seen, lambda answers: answers[503] > 5 and answers[200] > 5)
            finally:
                killed.serve()
        await_answers(seen, lambda answers: answers[200] > 20)
    assert [answer.body for answer in seen.wrong] == []


def test_postgresql_that_is_restarted_is_found_again(api: Api, database: Database) -> None:
    with traffic(api) as seen:
        await_answers(seen, lambda answers: answers[200] > 20)
        database.postgres.crash()
        try:
            await_answers(seen, lambda answers: answers[503] > 5)
        finally:
            database.postgres.start()
        await_answers(seen, lambda answers: answers[200] > 20)
    assert [answer.body for answer in seen.wrong] == []


@pytest.mark.usefixtures("shards")
def test_without_the_issuers_keys_users_wait_and_keys_go_on(sockets: Path, directory: Path) -> None:
    folder = directory / "without-issuer"
    folder.mkdir()
    known, source = KnownInMemory(), "https://id.example/jwks"
    issuer: dict[str, bytes] = {}

    async def refresh(url: str) -> bool:
        await asyncio.sleep(0)
        keys = keys_of_jwks(issuer[url]) if url in issuer else ()
        before = known.tenants["apps", "acme"].users
        known.add_tenant("acme", users=Users(keys, source=source))
        return before is not None and before.keys != keys

    known.add_tenant("acme", users=Users((), source=source))
    key = ("apikey", known.add_key("acme"))
    token = ("Authorization", "Bearer " + user_token(RSA_KEY, algorithm="RS256", header={"kid": "k0"}, exp=2**33))
    authorizer = AuthorizerThread(folder, known, refresh=refresh)
    nginx = Nginx(folder, authorizer.socket, sockets)
    try:
        authorizer.start()
        nginx.start()
        waiting = nginx.send("GET", "/rest/v1/notes", [key, token])
        assert (waiting.status, waiting.json["code"], waiting.headers["retry-after"]) == (503, "VBX503", "5")
        # Without a user there is nothing to wait for: the key's own role has no right yet.
        assert nginx.send("GET", "/rest/v1/notes", [key]).json["code"] == "42501"
        issuer[source] = jwks(RSA_KEY)
        assert nginx.send("GET", "/rest/v1/notes", [key, token], host=f"acme.{DOMAIN}").json["code"] == "42501"
    finally:
        nginx.stop()
        authorizer.stop()
