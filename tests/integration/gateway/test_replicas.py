"""Two replicas of ``vaultbrix gateway``, each with its nginx: one may die or know nothing, and no ended key lives on.

nginx tells a good key by 403: the tenant's data API is not switched on.
"""

import contextlib
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import builders
from tests.harness.gateway import Nginx
from tests.harness.gateway_process import GatewayProcess, running
from tests.harness.http_messages import Answer
from tests.harness.shell import wait_for
from tests.harness.slot import folder
from tests.harness.team import Team

from vaultbrix.api.apikey import APIKey, KeyKind
from vaultbrix.api.meta import rfc3339
from vaultbrix.dataapi.key import key_text, sha256_of, shown_prefix

GOOD, REFUSED, NOT_READY = 403, 401, 503


class Replica(GatewayProcess):
    """A gateway, and the nginx in front of it."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        super().__init__(folder, kubeconfig)
        self.nginx = Nginx(folder, self.socket, folder)

    def get(self, text: str) -> Answer:
        """What a client is answered by its nginx."""
        return self.nginx.send("GET", "/rest/v1/notes", [("apikey", text)])


class Doors:
    """Two replicas, and keys as the operator would write them."""

    def __init__(self, team: Team, replicas: tuple[Replica, Replica]) -> None:
        self.team, self.replicas = team, replicas
        self._made = 0

    def key(self) -> tuple[APIKey, str]:
        """A new key that both replicas know, and its text."""
        self._made += 1
        text = key_text(KeyKind.SECRET, self._made.to_bytes(32, "big"))
        api_key = builders.api_key(f"key-{self._made}", status=active(text))
        self.team.put(api_key)
        for replica in self.replicas:
            wait_for("the key is known", lambda replica=replica: replica.ask(text) == GOOD)  # type: ignore[misc]
        return api_key, text

    def revoke(self, api_key: APIKey, text: str) -> None:
        """End a key, and wait until no replica that answers takes it."""
        self.team.change(api_key, {"spec": {"revoked": True}})
        for replica in self.replicas:
            wait_for("the key is refused", lambda replica=replica: replica.ask(text) == REFUSED)  # type: ignore[misc]


def active(text: str) -> builders.Raw:
    """The status of a key with that text."""
    entry = {"sha256": sha256_of(text), "prefix": shown_prefix(text), "createdAt": rfc3339(builders.NOW)}
    return {"phase": "Active", "keys": [entry]}


@pytest.fixture
def doors(team: Team) -> Iterator[Doors]:
    """Both replicas know one tenant."""
    with contextlib.ExitStack() as stack:
        # nginx's workers are another user's.
        directory = folder()
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        team.put(builders.tenant("acme"))
        replicas = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            replica = Replica(directory / name, team.api.kubeconfig)
            stack.enter_context(running(replica))
            replica.nginx.start()
            stack.callback(replica.nginx.stop)
            replicas.append(replica)
        first, second = replicas
        yield Doors(team, (first, second))


@contextlib.contextmanager
def traffic(replica: Replica, text: str) -> Iterator[Counter[int]]:
    """Two clients that ask all the time, one connection for each request; counts what they were answered."""
    counted: Counter[int] = Counter()
    ended, lock = threading.Event(), threading.Lock()

    def ask() -> None:
        while not ended.is_set():
            status = replica.get(text).status
            with lock:
                counted[status] += 1

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield counted
    finally:
        ended.set()
        for client in clients:
            client.join()


def await_more(counted: Counter[int], status: int) -> None:
    """Wait until many more requests were answered so."""
    wanted = counted[status] + 50
    wait_for("clients are answered", lambda: counted[status] >= wanted, tell=lambda: counted)


def test_a_replica_that_is_killed_refuses_and_the_other_goes_on(doors: Doors) -> None:
    _, text = doors.key()
    first, second = doors.replicas
    with traffic(first, text) as at_first, traffic(second, text) as at_second:
        for _ in range(2):
            await_more(at_first, GOOD)
            first.process.kill()
            await_more(at_first, NOT_READY)
            await_more(at_second, GOOD)
            first.start()
        await_more(at_first, GOOD)
    assert set(at_first) == {GOOD, NOT_READY}
    assert set(at_second) == {GOOD}


def test_a_key_that_is_revoked_while_nobody_watches_is_refused_from_the_first_answer_on(doors: Doors) -> None:
    api_key, text = doors.key()
    for replica in doors.replicas:
        replica.process.kill()
        refused = replica.get(text)
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "VBX503", "1")
    doors.team.change(api_key, {"spec": {"revoked": True}})
    for replica in doors.replicas:
        replica.start()
        assert replica.get(text).status == REFUSED


def test_one_that_starts_without_an_api_server_lets_nobody_in_and_the_other_goes_on(doors: Doors) -> None:
    (_, good), (ended, revoked) = doors.key(), doors.key()
    doors.revoke(ended, revoked)
    first, second = doors.replicas
    doors.team.api.pause()
    try:
        first.process.kill()
        first.start(ready=False)
        assert {first.get(text).status for text in (good, revoked)} == {NOT_READY}
        assert (second.get(good).status, second.get(revoked).status) == (GOOD, REFUSED)
    finally:
        doors.team.api.resume()
    for replica in doors.replicas:
        wait_for("the key is known", lambda replica=replica: replica.get(good).status == GOOD)  # type: ignore[misc]
        assert replica.get(revoked).status == REFUSED
