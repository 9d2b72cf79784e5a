"""What a tenant's Secret holds connects, with the programs that each of its keys is for."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.harness.postgres import program
from tests.harness.shell import run
from tests.harness.world import World

CLIENT = "203.0.113.57"


@pytest.fixture(scope="module")
def client(running: World) -> tuple[World, str, str]:
    """The world, a team and its tenant, whom a rule lets in from CLIENT."""
    team = running.team()
    name = running.tenant(team)
    running.network.client(CLIENT)
    running.api.await_condition("accessrule", running.rule(team, name, f"{CLIENT}/32"), team)
    return running, team, name


PSYCOPG = "import psycopg, sys; print(psycopg.connect(sys.argv[1]).execute('SELECT 1').fetchone()[0])"


# pg_dump without -n would lock every table of the database, and others' are not the tenant's to lock.
COMMANDS = {
    "psql": ["psql", "-XAtc", "SELECT 1", "-d"],
    "psycopg": [sys.executable, "-c", PSYCOPG],
    "pg_dump": [*program("pg_dump"), "-s", "-n", "tenant_*", "-d"],
}


@pytest.mark.parametrize("program", COMMANDS)
def test_uri_is_what_libpq_takes(client: tuple[World, str, str], program: str, tmp_path: Path) -> None:
    world, team, name = client
    credentials = world.secret(team, f"{name}-db")
    command = [part.replace("tenant_*", credentials["schema"]) for part in COMMANDS[program]]
    world.psql(CLIENT, team, name, "CREATE TABLE IF NOT EXISTS orders(id int)").run()
    authority = tmp_path / "ca.crt"
    authority.write_text(credentials["ca.crt"])
    environment = {"PGSSLROOTCERT": str(authority), "PGCONNECT_TIMEOUT": "5"}
    done = run(*world.network.inside(CLIENT, [*command, credentials["uri"]]), check=False, env=environment)
    assert done.returncode == 0, done.stderr
    expected = f"CREATE TABLE {credentials['schema']}.orders" if program == "pg_dump" else "1\n"
    assert expected in done.stdout
    # Prisma's parameters are not libpq's: docs/access.md says which key is for whom.
    done = run(*world.network.inside(CLIENT, [*command, credentials["DATABASE_URL"]]), check=False, env=environment)
    assert done.returncode
    assert "invalid URI query parameter" in done.stderr


def test_database_url_is_the_uri_but_for_its_parameters(client: tuple[World, str, str]) -> None:
    world, team, name = client
    credentials = world.secret(team, f"{name}-db")
    uri, prisma = (urlsplit(credentials[key]) for key in ("uri", "DATABASE_URL"))
    assert (uri.scheme, uri.netloc, uri.path) == (prisma.scheme, prisma.netloc, prisma.path)
    with pytest.raises(psycopg.ProgrammingError, match="invalid URI query parameter"):
        psycopg.conninfo.conninfo_to_dict(credentials["DATABASE_URL"])
