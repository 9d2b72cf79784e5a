"""What tests of direct access look at: sessions, doors, and what the kernel holds."""

from tests.harness.network import SERVER
from tests.harness.processes import Process
from tests.harness.shell import run, wait_for
from tests.harness.world import PORT, World


def sleeping_sessions(world: World, address: str) -> int:
    """Sessions from an address that do nothing but sleep."""
    ((count,),) = world.postgres.query(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%%' AND client_addr = %s", [address]
    )
    return int(count)


def held_session(world: World, address: str, team: str, tenant: str, name: str) -> Process:
    """An open session that sleeps; it is there when this returns."""
    before = sleeping_sessions(world, address)
    process = world.psql(address, team, tenant, "SELECT pg_sleep(600)").hold(world.directory / f"{name}.log")
    wait_for("the session is open", lambda: sleeping_sessions(world, address) > before, tell=process.text)
    return process


def is_reset(world: World, address: str) -> bool:
    """Whether a new connection is answered with a TCP reset."""
    world.network.client(address)
    probe = f"exec 3<>/dev/tcp/{SERVER}/{PORT}"
    done = run(*world.network.inside(address, ["timeout", "3", "bash", "-c", probe]), check=False)
    return "Connection refused" in done.stderr
