"""Catch-all lines that somebody has in pg_hba.conf give nobody of ours more than a rule does, and stay as they are.

PostgreSQL takes the first line that matches, and database ``all`` matches no physical replication (PostgreSQL, 21.1).
"""

from collections.abc import Iterator

import pytest
from tests.harness.direct_access import is_reset
from tests.harness.network import MACHINE, SERVER
from tests.harness.shell import run, wait_for
from tests.harness.world import ADMIN_PASSWORD, PORT, World

CLIENT = "203.0.113.181"
FOREIGN = """# Left by somebody.
host all all 0.0.0.0/0 md5
host all all ::/0 md5
local all all trust
host replication all 0.0.0.0/0 trust
host all vaultbrix_agent 0.0.0.0/0 trust
"""
DBA_PASSWORD = "correct-horse-of-the-dba"
REJECTED = "pg_hba.conf rejects"


class Door:
    """A tenant that a rule lets in from CLIENT, beside lines of somebody else."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.team = world.team()
        self.tenant = world.tenant(self.team)
        self.role = f"tenant_{self.tenant.replace('-', '_')}"
        world.network.client(CLIENT)
        self.rule = world.rule(self.team, self.tenant, f"{CLIENT}/32")
        world.api.await_condition("accessrule", self.rule, self.team)
        self.password = world.password(self.team, self.tenant)

    def tells(self, where: str = CLIENT, host: str = SERVER, password: str = "", **parameters: str) -> str:
        """What psql says over a connection with these parameters of libpq's; ``1`` where it gets in."""
        values = {
            "host": host, "port": str(PORT), "user": self.role, "dbname": "postgres", "sslmode": "require",
            "connect_timeout": "5", **parameters,
        }  # fmt: skip
        text = " ".join(f"{key}='{value}'" for key, value in values.items())
        # A replication connection knows no SELECT.
        asks = "IDENTIFY_SYSTEM" if "replication" in parameters else "SELECT 1"
        command = ["psql", "-XAtc", asks, text]
        inside = self.world.network.inside(where, command) if where != MACHINE else command
        environment = {"PGPASSWORD": password or self.password}
        done = run(*inside, check=False, env=environment)
        return done.stdout.strip() if done.returncode == 0 else done.stderr


@pytest.fixture
def door(world: World) -> Iterator[Door]:
    before = world.postgres.hba_file.read_text()
    world.postgres.query(f"CREATE ROLE dba LOGIN PASSWORD '{DBA_PASSWORD}'")
    world.postgres.hba_file.write_text(FOREIGN + before)
    made = Door(world)
    yield made
    world.postgres.query("DROP ROLE dba")
    world.postgres.hba_file.write_text(world.postgres.hba_file.read_text().replace(FOREIGN, ""))


def test_a_tenant_gets_in_by_its_rule_alone(door: Door) -> None:
    assert door.tells() == "1"
    other_rule = door.world.rule(door.team, door.tenant, "203.0.113.182/32", login="PerRule")
    door.world.api.await_condition("accessrule", other_rule, door.team)
    credentials = door.world.secret(door.team, f"{other_rule}-access")
    own = {"user": credentials["username"], "password": credentials["password"]}
    refused = {
        "in clear": door.tells(sslmode="disable"),
        "another database": door.tells(dbname="template1"),
        "physical replication": door.tells(replication="true"),
        "physical replication in clear": door.tells(replication="true", sslmode="disable"),
        "another database's replication": door.tells(replication="database", dbname="template1"),
        "Unix socket": door.tells("server", host=str(door.world.postgres.socket)),
        "replication by the Unix socket": door.tells(
            "server", host=str(door.world.postgres.socket), replication="true"
        ),
        "a rule's own login from elsewhere": door.tells(**own),
        "a rule's own login in clear": door.tells(**own, sslmode="disable"),
    }
    assert {case: said for case, said in refused.items() if REJECTED not in said} == {}
    # The line of the rule lets it log in, and PostgreSQL lets nobody replicate who has no right to.
    assert "FATAL" in door.tells(replication="database")
    door.world.api.delete("accessrule", door.rule, door.team)
    wait_for("it is refused", lambda: is_reset(door.world, CLIENT))
    wait_for("no line of the rule is left", lambda: CLIENT not in door.world.postgres.hba_file.read_text())
    for parameters in ({}, {"sslmode": "disable"}, {"dbname": "template1"}, {"replication": "true"}):
        assert "Connection refused" in door.tells(**parameters)
        assert REJECTED in door.tells(MACHINE, **parameters), "the kernel lets the machine in, PostgreSQL does not"


def test_logins_of_the_product_get_in_by_no_line_of_somebody_else(door: Door) -> None:
    admin = {"user": "postgres", "password": ADMIN_PASSWORD}
    refused = {
        "the admin": door.tells(**admin),
        "the admin, replicating": door.tells(**admin, replication="true"),
        "the admin, replicating in clear": door.tells(**admin, replication="true", sslmode="disable"),
        "the agent": door.tells(user="vaultbrix_agent"),
        "the agent, replicating": door.tells(user="vaultbrix_agent", replication="true"),
    }
    assert {case: said for case, said in refused.items() if REJECTED not in said} == {}


def test_lines_of_others_hold_for_others_and_stay_byte_for_byte(door: Door) -> None:
    own = {"user": "dba", "password": DBA_PASSWORD}
    for sslmode in ("require", "disable"):
        assert door.tells(**own, sslmode=sslmode) == "1"
    assert door.tells("server", host=str(door.world.postgres.socket), user="dba") == "1"
    assert FOREIGN in door.world.postgres.hba_file.read_text()
    assert door.world.api.condition("accessrule", door.rule, "Enforced", door.team)["status"] == "True"
    door.world.api.delete("accessrule", door.rule, door.team)
    wait_for("it is refused", lambda: is_reset(door.world, CLIENT))
    assert door.tells(MACHINE, **own) == "1"
    assert FOREIGN in door.world.postgres.hba_file.read_text()
