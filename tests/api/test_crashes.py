"""Parts of the data API that die under load: an error in PostgREST's form meanwhile, and never another's rows."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from tests.harness.api_traffic import await_answers, traffic
from tests.harness.database import Database
from tests.harness.gateway import Api, AuthorizerThread, Nginx, in_front_of
from tests.harness.http_messages import Answer, request
from tests.harness.issuer import Issuer, in_a_thread
from tests.harness.known_keys import DOMAIN, RSA_KEY, KnownInMemory, jwks, user_token
from tests.harness.postgrest import SECRET, PostgREST, program, token

from vaultbrix.gateway import runner as gateway_runner
from vaultbrix.gateway.jwks import SECONDS_BETWEEN_ATTEMPTS, SECONDS_GOOD, KeySets
from vaultbrix.gateway.jwt import Users, keys_of_jwks
from vaultbrix.gateway.known import KnownTenant, ObjectKey
from vaultbrix.gateway.postgrest import Served
from vaultbrix.gateway.runner import Runner


def reading(api: Api) -> dict[str, Callable[[], Answer]]:
    """How each tenant asks for a note of its own."""

    def of(text: str) -> Callable[[], Answer]:
        return lambda: api.nginx.send("GET", "/rest/v1/notes?select=text&limit=1", [("apikey", text)])

    return {slug: of(text) for slug, text in api.secret.items()}


def test_a_postgrest_that_is_killed_answers_nobody_with_anothers_rows(
    api: Api, postgrests: Mapping[str, PostgREST]
) -> None:
    with traffic(reading(api)) as seen:
        for slug, killed in postgrests.items():
            await_answers(seen, lambda more: more.of(200) > 20)
            killed.kill()
            try:
                await_answers(seen, lambda more: more.of(503, slug) > 5)  # noqa: B023
                # The other tenant is served on.
                await_answers(seen, lambda more: more.of(503) > 5 and more.of(200) > 5)
            finally:
                killed.serve()
        await_answers(seen, lambda more: more.of(200) > 20)
    assert [answer.body for answer in seen.wrong] == []


def test_postgresql_that_is_restarted_is_found_again(api: Api, database: Database) -> None:
    with traffic(reading(api)) as seen:
        await_answers(seen, lambda more: more.of(200) > 20)
        database.postgres.crash()
        try:
            await_answers(seen, lambda more: more.of(503) > 5)
        finally:
            database.postgres.start()
        await_answers(seen, lambda more: more.of(200) > 20)
    assert [answer.body for answer in seen.wrong] == []


# libpq alone would need more for it than a PostgREST has: its buffer grows by doubling, past 128 MiB.
TOO_LARGE = "/rpc/repeated?times=14000000"


def test_an_answer_beyond_its_memory_is_one_tenants_error_alone(database: Database, directory: Path) -> None:
    folder = directory / "small"
    folder.mkdir()
    with database.login("tenant_acme") as session:
        session.execute(
            "CREATE OR REPLACE FUNCTION repeated(times int) RETURNS text LANGUAGE sql"
            " AS $$ SELECT repeat('0123456789', times) $$"
        )
    tenants = {slug: PostgREST(folder, database, slug) for slug in ("acme", "globex")}

    async def resolve(tenant: ObjectKey) -> Served:
        await asyncio.sleep(0)
        return tenants[tenant[1]].served

    async def ask(slug: str, target: str) -> Answer:
        role = f"tenant_{slug}"
        headers = {"Authorization": f"Bearer {token(vaultbrix={'role': role})}", "Accept-Profile": role}
        return await asyncio.to_thread(request, tenants[slug].socket, "GET", target, headers, timeout=150)

    async def as_the_gateway_runs_them() -> None:
        runner = Runner(program("postgrest"), folder, SECRET, resolve)
        running = asyncio.create_task(runner.run())

        async def notes(slug: str) -> Answer:
            for _ in range(60):
                if await runner.ensure(("apps", slug)):
                    break
                await asyncio.sleep(0.5)
            return await ask(slug, "/notes?select=text&limit=1")

        try:
            for slug in tenants:
                assert (await notes(slug)).status == 200
            large, *others = await asyncio.gather(ask("acme", TOO_LARGE), *(notes("globex") for _ in range(20)))
            assert large.status in {400, 500, 503}, large.status
            assert {answer.status for answer in others} == {200}
            assert (await notes("acme")).status == 200
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(as_the_gateway_runs_them())


def test_a_start_that_takes_longer_than_a_request_waits_is_not_begun_anew(
    database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = directory / "slow"
    folder.mkdir()
    slow, starts = folder / "postgrest", folder / "starts"
    slow.write_text(f'#!/bin/sh\necho >> {starts}\nsleep 2\nexec {program("postgrest")} "$@"\n')
    slow.chmod(0o755)
    tenant = PostgREST(folder, database, "acme")

    async def resolve(_: ObjectKey) -> Served:
        await asyncio.sleep(0)
        return tenant.served

    async def ask_all_the_time() -> list[bool]:
        runner = Runner(slow, folder, SECRET, resolve)
        running = asyncio.create_task(runner.run())
        answers: list[bool] = []
        try:
            async with asyncio.timeout(60):
                while not answers or not answers[-1]:
                    answers.append(await runner.ensure(("apps", "acme")))
                    await asyncio.sleep(0.05)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return answers

    monkeypatch.setattr(gateway_runner, "START_SECONDS", 0.2)
    answers = asyncio.run(ask_all_the_time())
    assert answers.count(False) > 5
    assert starts.read_text() == "\n"


@pytest.mark.usefixtures("postgrests")
def test_without_the_issuers_keys_users_wait_and_keys_go_on(sockets: Path, directory: Path) -> None:
    source = "https://id.example/jwks"
    issuer: dict[str, bytes] = {}

    async def refresh(url: str) -> bool:
        await asyncio.sleep(0)
        keys = keys_of_jwks(issuer[url]) if url in issuer else ()
        before = front.known.tenants["apps", "acme"].users
        front.known.add_tenant("acme", users=Users(keys, source=source))
        return before is not None and before.keys != keys

    token = ("Authorization", "Bearer " + user_token(RSA_KEY, algorithm="RS256", header={"kid": "k0"}, exp=2**33))
    with in_front_of(sockets, directory / "without-issuer", options={"refresh": refresh}) as front:
        front.known.add_tenant("acme", users=Users((), source=source))
        key = ("apikey", front.known.add_key("acme"))
        waiting = front.nginx.send("GET", "/rest/v1/notes", [key, token])
        assert (waiting.status, waiting.json["code"], waiting.headers["retry-after"]) == (503, "VBX503", "5")
        # Without a user there is nothing to wait for: the key's own role has no right yet.
        assert front.nginx.send("GET", "/rest/v1/notes", [key]).json["code"] == "42501"
        issuer[source] = jwks(RSA_KEY)
        assert front.nginx.send("GET", "/rest/v1/notes", [key, token], host=f"acme.{DOMAIN}").json["code"] == "42501"


class KnownFrom(KnownInMemory):
    """What the test has made known, with the users' keys of each tenant as an issuer published them."""

    def __init__(self, sets: KeySets, url: str) -> None:
        super().__init__()
        self.sets, self.url = sets, url

    def tenant(self, name: ObjectKey) -> KnownTenant | None:
        found = super().tenant(name)
        return replace(found, users=Users(self.sets.keys(self.url), source=self.url)) if found is not None else None


@pytest.mark.usefixtures("postgrests")
def test_users_of_an_issuer_that_is_away_come_in_for_an_hour_and_then_nobody_does(
    sockets: Path, directory: Path
) -> None:
    folder = directory / "issuer-away"
    folder.mkdir()

    def token(sub: str) -> tuple[str, str]:
        claims = {"sub": sub, "role": "authenticated", "exp": 2**33}
        return ("Authorization", "Bearer " + user_token(RSA_KEY, algorithm="RS256", header={"kid": "k0"}, **claims))

    async def away() -> web.StreamResponse:
        return web.Response(status=503)

    with in_a_thread(Issuer(folder)) as issuer:
        sets = issuer.key_sets()
        known = KnownFrom(sets, issuer.url)
        known.add_tenant("acme")
        key = ("apikey", known.add_key("acme"))
        authorizer = AuthorizerThread(folder, known, refresh=sets.refresh)
        nginx = Nginx(folder, authorizer.socket, sockets)

        def asked(*headers: tuple[str, str]) -> tuple[int, str]:
            answer = nginx.send("GET", "/rest/v1/films?select=id&limit=1", [key, *headers])
            return answer.status, "" if answer.status == 200 else answer.json["code"]

        try:
            authorizer.start()
            nginx.start()
            assert asked(token("jane")) == (200, "")
            issuer.answer = away
            issuer.now += SECONDS_GOOD - 1
            assert [asked(token(sub)) for sub in ("jane", "joe")] == [(200, "")] * 2
            issuer.now += 1
            # Also who was let in before, while a key without a user goes on.
            assert [asked(token(sub)) for sub in ("jane", "joe", "eve")] == [(503, "VBX503")] * 3
            assert asked() == (200, "")
            issuer.answer = None
            issuer.now += SECONDS_BETWEEN_ATTEMPTS
            assert asked(token("jane")) == (200, "")
        finally:
            nginx.stop()
            authorizer.stop()
