"""A network that swallows packets: nothing of the operator waits for an answer that will not come."""

import contextlib
from collections.abc import Iterator

from tests.harness.network import MACHINE
from tests.harness.postgres import PORT
from tests.harness.shell import run
from tests.harness.world import SERVER_NAME, World


@contextlib.contextmanager
def swallowed(world: World) -> Iterator[None]:
    """What the operator sends to PostgreSQL is dropped, before any chain of the agent sees it."""
    rule = ("PREROUTING", "-p", "tcp", "-s", MACHINE, "--dport", str(PORT), "-j", "DROP")
    run(*world.network.inside("server", ["iptables", "-t", "raw", "-I", *rule]))
    try:
        yield
    finally:
        run(*world.network.inside("server", ["iptables", "-t", "raw", "-D", *rule]))


def test_a_kept_connection_whose_packets_are_swallowed_is_given_up(world: World) -> None:
    # The connection that the next look at the server finds waiting.
    world.api.patch("pgs", SERVER_NAME, "", {"spec": {"limits": {"maxRulesPerTenant": 999}}})
    world.api.await_condition("pgs", SERVER_NAME, "")
    try:
        with swallowed(world):
            world.api.patch("pgs", SERVER_NAME, "", {"spec": {"limits": {"maxRulesPerTenant": 998}}})
            world.api.await_condition("pgs", SERVER_NAME, "", status="False", reason="Unreachable", patience=90)
        world.api.await_condition("pgs", SERVER_NAME, "", patience=90)
    finally:
        world.api.patch("pgs", SERVER_NAME, "", {"spec": {"limits": {"maxRulesPerTenant": 1000}}})
