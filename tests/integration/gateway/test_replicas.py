"""Two replicas of ``vaultbrix gateway`` behind nginx: either may die, hang or know nothing, and no ended key lives on.

nginx tells a good key by 403: the tenant's data API is not switched on.
"""

import contextlib
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.harness import builders
from tests.harness.gateway import Nginx
from tests.harness.gateway_process import GOOD, NOT_READY, REFUSED, GatewayProcess, running
from tests.harness.http_messages import Answer
from tests.harness.shell import wait_for
from tests.harness.slot import folder
from tests.harness.team import Team

from vaultbrix.api.apikey import APIKey, KeyKind
from vaultbrix.api.meta import rfc3339
from vaultbrix.dataapi.key import key_text, sha256_of, shown_prefix


class Door:
    """nginx in front of two replicas, and keys as the operator would write them."""

    def __init__(self, team: Team, nginx: Nginx, replicas: tuple[GatewayProcess, GatewayProcess]) -> None:
        self.team, self.nginx, self.replicas = team, nginx, replicas
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

    def ask(self, text: str) -> Answer:
        """What a client is answered."""
        return self.nginx.send("GET", "/rest/v1/notes", [("apikey", text)])


def active(text: str) -> builders.Raw:
    """The status of a key with that text."""
    entry = {"sha256": sha256_of(text), "prefix": shown_prefix(text), "createdAt": rfc3339(builders.NOW)}
    return {"phase": "Active", "keys": [entry]}


@pytest.fixture
def door(team: Team) -> Iterator[Door]:
    """Both replicas know one tenant."""
    with contextlib.ExitStack() as stack:
        # nginx's workers are another user's.
        directory = folder()
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        team.put(builders.tenant("acme"))
        replicas = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            replicas.append(stack.enter_context(running(GatewayProcess(directory / name, team.api.kubeconfig))))
        first, second = replicas
        nginx = Nginx(directory, first.socket, directory / "none", other_gateways=[second.socket])
        nginx.start()
        stack.callback(nginx.stop)
        yield Door(team, nginx, (first, second))


@contextlib.contextmanager
def traffic(door: Door, text: str) -> Iterator[Counter[int]]:
    """Four clients that ask all the time, one connection for each request; counts what they were answered."""
    counted: Counter[int] = Counter()
    ended, lock = threading.Event(), threading.Lock()

    def ask() -> None:
        while not ended.is_set():
            status = door.ask(text).status
            with lock:
                counted[status] += 1

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        yield counted
    finally:
        ended.set()
        for client in clients:
            client.join()


def more(counted: Counter[int]) -> None:
    """Wait until many more requests were answered."""
    wanted = counted.total() + 100
    wait_for("clients are answered", lambda: counted.total() >= wanted)


def test_a_replica_that_is_killed_or_hangs_costs_no_request(door: Door) -> None:
    _, text = door.key()
    first, second = door.replicas
    with traffic(door, text) as answers:
        for killed in (first, second):
            more(answers)
            killed.process.kill()
            more(answers)
            killed.start()
            # nginx leaves it alone for a second.
            wait_for("it is asked again", lambda killed=killed: "NotServed" in killed.metrics())  # type: ignore[misc]
        first.process.send(signal.SIGSTOP)
        try:
            more(answers)
        finally:
            first.process.send(signal.SIGCONT)
    assert set(answers) == {GOOD}


def test_without_any_replica_nobody_is_let_in_until_one_is_back(door: Door) -> None:
    api_key, text = door.key()
    for replica in door.replicas:
        replica.process.kill()
    refused = door.ask(text)
    assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "VBX503", "1")
    door.team.change(api_key, {"spec": {"revoked": True}})
    door.replicas[1].start()
    # Never let in meanwhile: what was revoked while nobody watched is refused from the first answer on.
    wait_for("it is asked again", lambda: {door.ask(text).status} - {NOT_READY})
    assert door.ask(text).status == REFUSED


def test_one_that_starts_without_an_api_server_leaves_the_answer_to_the_other(door: Door) -> None:
    (_, good), (ended, revoked) = door.key(), door.key()
    door.revoke(ended, revoked)
    first, second = door.replicas
    door.team.api.pause()
    try:
        first.process.kill()
        first.start(ready=False)
        assert (first.ask(good), first.ask(revoked)) == (NOT_READY, NOT_READY)
        for _ in range(20):
            assert (door.ask(good).status, door.ask(revoked).status) == (GOOD, REFUSED)
        second.process.kill()
        second.start(ready=False)
        for text in (good, revoked):
            answer = door.ask(text)
            assert (answer.status, answer.json["code"]) == (503, "VBX503")
    finally:
        door.team.api.resume()
    for replica in door.replicas:
        wait_for("the key is known again", lambda replica=replica: replica.ask(good) == GOOD)  # type: ignore[misc]
        assert replica.ask(revoked) == REFUSED
    wait_for("nginx asks again", lambda: door.ask(good).status == GOOD)
    assert door.ask(revoked).status == REFUSED
