"""The echo: who asks the server is told the address that a rule must name."""

from tests.harness.command_line import Person
from tests.harness.network import MACHINE, SERVER, SERVER6
from tests.harness.processes import Process
from tests.harness.shell import run, wait_for
from tests.harness.world import ECHO_PORT, EVE, PORT, World, server


def heard(world: World, client: str, host: str) -> str:
    """What the echo tells a client."""
    world.network.client(client)
    listen = f"exec 3<>/dev/tcp/{host}/{ECHO_PORT}; cat <&3"
    return run(*world.network.inside(client, ["timeout", "5", "bash", "-c", listen]), check=False).stdout


def test_the_echo_tells_everybody_their_own_address_as_the_server_sees_it(world: World) -> None:
    wait_for("it answers", lambda: heard(world, EVE, SERVER))
    assert heard(world, EVE, SERVER) == f"{EVE}\n"
    assert heard(world, "2001:db8::9", SERVER6) == "2001:db8::9\n"


def test_callers_that_stay_or_talk_keep_nobody_from_the_echo(world: World) -> None:
    wait_for("it answers", lambda: heard(world, EVE, SERVER))
    crowd = (
        f"for i in $(seq 60); do exec {{fd}}<>/dev/tcp/{SERVER}/{ECHO_PORT}; printf 'GET /%s' $i >&$fd; done; sleep 60"
    )
    world.network.client("198.51.100.10")
    pushing = Process(world.network.inside("198.51.100.10", ["bash", "-c", crowd]), world.directory / "crowd.log")
    pushing.start()
    try:
        wait_for("others are answered", lambda: heard(world, EVE, SERVER) == f"{EVE}\n")
    finally:
        pushing.kill()
    assert world.agent.running


def test_me_is_the_address_that_the_server_sees(world: World) -> None:
    team = world.team()
    name = world.tenant(team)
    jane = Person.admin(world, team, host="server")
    wait_for("it answers", lambda: heard(world, EVE, SERVER))
    done = jane.types("allow", name, "--cidr", "me", "--for", "1h", "--reason", "CHG-1")
    assert done.returncode == 0, done.stderr
    assert f"note: {SERVER}/32" in done.stderr, "nobody has proved it"
    assert f"{SERVER}/32" in jane.succeeds("rules")
    assert f"yes: {SERVER} may log in" in jane.succeeds("explain", "--ip", "me", "--tenant", name)
    said = Person.admin(world, team).fails("allow", name, "--cidr", "me", "--for", "1h", "--reason", "CHG-2")
    assert f"--cidr {MACHINE}/32: overlaps {MACHINE}/32" in said, "it is the operator's address, too"
    world.api.apply(server(publicEndpoint={"host": SERVER, "port": PORT, "echoPort": None}))
    try:
        for command in (["allow", name, "--cidr", "me", "--for", "1h", "--reason", "x"],
                        ["explain", "--ip", "me", "--tenant", name]):  # fmt: skip
            said = jane.fails(*command)
            assert "spec.publicEndpoint.echoPort" in said
    finally:
        world.api.apply(server())
