"""A text near the limit goes all the way, however it was asked for; what cannot hold it says so."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness.approvals import Approval
from tests.harness.command_line import Person
from tests.harness.tenant_with_tables import TenantWithTables
from tests.harness.world import World, approval

from vaultbrix.api.ddlapproval import MAX_SQL_BYTES, MAX_STATEMENTS

LETTERS = "x" * 1285
TEXT = f"COMMENT ON TABLE orders IS '{LETTERS}';\n" * (MAX_STATEMENTS - 1) + "ALTER TABLE orders DROP COLUMN legacy;\n"


@pytest.fixture
def place(world: World) -> TenantWithTables:
    assert 260_000 < len(TEXT.encode()) < MAX_SQL_BYTES
    place = TenantWithTables(world)
    place.sql("CREATE TABLE orders(id int, legacy text)")
    return place


def manifest(place: TenantWithTables) -> str:
    return json.dumps(approval(place.team, "long", place.tenant, TEXT))


def by_command_line(place: TenantWithTables, directory: Path) -> None:
    file = directory / "long.sql"
    file.write_text(TEXT)
    jane = Person.admin(place.world, place.team)
    jane.succeeds("ddl", "submit", place.tenant, "-f", str(file), "--reason", "CHG-1", "--name", "long")


def by_server_side_apply(place: TenantWithTables, _: Path) -> None:
    said = place.world.api.kubectl("apply", "--server-side", "-f", "-", input_text=manifest(place))
    assert "serverside-applied" in said


def by_create(place: TenantWithTables, _: Path) -> None:
    assert "created" in place.world.api.kubectl("create", "-f", "-", input_text=manifest(place))


@pytest.mark.parametrize("asked", [by_command_line, by_server_side_apply, by_create])
def test_a_text_near_the_limit_is_rehearsed_and_run_and_kept_in_its_object_alone(
    place: TenantWithTables, tmp_path: Path, asked: Callable[[TenantWithTables, Path], None]
) -> None:
    asked(place, tmp_path)
    made = Approval(place.world, place.team, "long")
    found = made.rehearsed()
    assert (found["possible"], found.get("error")) == (True, None)
    assert place.plain(found["drops"]) == {"table column t.orders.legacy"}
    made.decide()
    made.phase("Running")
    place.world.api.kubectl("-n", place.team, "annotate", "ddl", "long", "team=shop")
    pod = made.pod()
    assert pod.run() == 0
    status = made.phase("Succeeded")
    assert (status["executed"], len(status["statements"])) == (MAX_STATEMENTS, MAX_STATEMENTS)
    assert status["statements"][-1]["line"] == MAX_STATEMENTS
    columns = "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    assert place.world.postgres.query(columns, [f"{place.role}.orders"]) == [("id",)]
    metadata = made.read()["metadata"]
    assert metadata["annotations"] == {"team": "shop"}
    assert LETTERS not in json.dumps(metadata["managedFields"])
    others = place.world.api.kubectl("get", "secrets,configmaps,events,jobs,pods", "-A", "-o", "json")
    assert LETTERS not in others
    assert base64.b64encode(b"x" * 1278).decode() not in others


def test_apply_on_the_clients_side_cannot_hold_it_and_the_api_server_says_so(place: TenantWithTables) -> None:
    said = place.world.api.kubectl("apply", "-f", "-", input_text=manifest(place), check=False)
    assert "metadata.annotations: Too long" in said
    assert place.world.api.get("ddl", "long", place.team) == {}
