"""A server and a client with IPv4 and IPv6, and a rule for one of the two."""

import time

from tests.harness.command_line import Person
from tests.harness.network import SERVER, SERVER6
from tests.harness.shell import wait_for
from tests.harness.world import ECHO_PORT, PORT, World, server

CLIENT4, CLIENT6 = "203.0.113.191", "2001:db8::191"
# libpq goes through several hosts as through the addresses of one name, in their order.
BOTH = f"{SERVER6},{SERVER}"
# From the reset over IPv6 to a session over IPv4; a rejection without a reset would last for connect_timeout.
SOON_SECONDS = 1.0


def test_a_rule_for_one_address_is_enough_where_the_client_tries_the_other_first(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    world.network.client_of_both(CLIENT4, CLIENT6)
    rule = world.rule(team, name, f"{CLIENT4}/32")
    world.api.await_condition("accessrule", rule, team)
    refused = world.psql(CLIENT4, team, name, "SELECT 1", host=SERVER6).run()
    assert "Connection refused" in refused.stderr
    psql = world.psql(CLIENT4, team, name, "SELECT inet_client_addr() AS both_families", host=BOTH)
    began = time.monotonic()
    done = psql.run()
    took = time.monotonic() - began
    assert done.stdout.strip() == CLIENT4, done.stderr
    assert took < SOON_SECONDS
    recorded = "SELECT DISTINCT host(address) FROM audit.statement WHERE statement LIKE '%%both_families%%'"
    rows = wait_for("it is on record", lambda: world.store.query(recorded), patience=60)
    assert rows == [(CLIENT4,)]

    jane = Person.admin(world, team)
    said = jane.types("explain", "--ip", CLIENT6, "--tenant", name)
    assert said.returncode == 1
    assert f"rule {rule} is open for addresses of IPv4 alone" in said.stdout


def test_me_over_ipv6_is_the_ipv6_address_and_says_so(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    endpoint = {"host": SERVER6, "port": PORT, "echoPort": ECHO_PORT}
    world.api.apply(server(publicEndpoint=endpoint))
    try:
        wait_for(
            "the endpoint is looked at",
            lambda: world.api.condition("pgs", "main", "EndpointCertificate", "")["status"] == "True",
        )
        jane = Person.admin(world, team, host="server")
        done = jane.types("allow", name, "--cidr", "me", "--for", "1h", "--reason", "CHG-1")
        assert done.returncode == 0, done.stderr
        assert f"note: {SERVER6}/128: what me stands for" in done.stderr
        assert "you reach the server over IPv6; connections over IPv4 need a rule for your IPv4 address" in done.stderr
        assert f"{SERVER6}/128" in jane.succeeds("rules")
    finally:
        world.api.apply(server())
