"""What a server's status says of its record, as the store holds it, and what the shipper says itself."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.harness.database import PASSWORD, directory
from tests.harness.network import MACHINE, SERVER
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for
from tests.harness.slot import SLOT
from tests.harness.world import METRICS_PORT, SERVER_NAME, SYSTEM, World, secret

from vaultbrix.audit import schema
from vaultbrix.audit.flow.flow_file import read_flow
from vaultbrix.postgres import scram

NAME = "anchored"
PORT = 18084 + 10 * SLOT


class Followed:
    """A PostgresServer whose log the test writes, and a shipper of it. No agent knows it."""

    def __init__(self, world: World, path: Path) -> None:
        self.world, self.logs, self.anchors, self.flow = world, path / "log", path / "anchors", path / "flow.json"
        self.logs.mkdir()
        world.store.bind(NAME)
        self.lines = 0
        self.shipper = Process(
            [
                *VAULTBRIX,
                "audit",
                "ship",
                f"--server={NAME}",
                f"--log-directory={self.logs}",
                f"--grants={path / 'grants.json'}",
                f"--store={world.store.secret}",
                f"--flow={self.flow}",
                f"--anchor-file={self.anchors}",
                f"--metrics-port={PORT}",
            ],
            path / "shipper.log",
        )

    def write(self, message: str = "") -> None:
        """One line of the log, stored when this returns."""
        self.lines += 1
        line = {
            "timestamp": "2026-11-01 10:00:00.000 UTC",
            "session_id": "6544e1c0.1",
            "line_num": self.lines,
            "message": message,
        }
        with (self.logs / "postgresql-1.json").open("a") as file:
            file.write(json.dumps(line) + "\n")
        count = "SELECT count(*) FROM audit.record WHERE server = %s"
        wait_for(
            "it is stored",
            lambda: self.world.store.query(count, [NAME]) == [(self.lines,)],
            tell=self.shipper.text,
        )

    def put_back(self) -> None:
        """The store is what it was after the first batch, as from a backup."""
        for table in ("record", "batch", "part"):
            self.world.store.query(f"DELETE FROM audit.{table} WHERE server = %s AND batch > 1".encode(), [NAME])  # type: ignore[arg-type]
        self.world.store.query("UPDATE audit.checkpoint SET batch = 1 WHERE server = %s", [NAME])
        self.world.store.query("DELETE FROM audit.logfile WHERE server = %s", [NAME])
        self.lines = int(self.world.store.query("SELECT count(*) FROM audit.record WHERE server = %s", [NAME])[0][0])

    def anchor(self) -> dict[str, Any]:
        """status.audit; empty where there is none."""
        found: dict[str, Any] = self.world.api.get("pgs", NAME, "")["status"].get("audit", {})
        return found

    def told(self, status: str, reason: str) -> str:
        """The message of AuditFlowing once it is so."""
        found = self.world.api.await_condition(
            "pgs", NAME, "", type_="AuditFlowing", status=status, reason=reason, patience=90
        )
        return str(found["message"])


@pytest.fixture
def followed(world: World) -> Iterator[Followed]:
    world.server(NAME)
    with directory() as path:
        made = Followed(world, path)
        try:
            yield made
        finally:
            made.shipper.stop()
            world.api.delete("pgs", NAME)
            for table in ("record", "gap", "quarantine", "batch", "part", "checkpoint", "logfile"):
                world.store.query(f"DELETE FROM audit.{table} WHERE server = %s".encode(), [NAME])  # type: ignore[arg-type]


def metrics(port: int) -> dict[str, float]:
    """Name with labels → value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def test_the_newest_batch_is_kept_in_the_status_and_a_store_that_was_put_back_is_told(followed: Followed) -> None:
    assert "vaultbrix audit ship" in followed.told("False", "NoShipper")
    followed.shipper.start()
    followed.write("one")
    followed.write("two")
    assert "stored" in followed.told("True", "Flowing")
    wait_for("the anchor is the newest batch", lambda: followed.anchor().get("batch") == 2, patience=120)
    anchor = followed.anchor()
    ((root,),) = followed.world.store.query("SELECT root FROM audit.batch WHERE server = %s AND batch = 2", [NAME])
    followed.shipper.stop()
    followed.put_back()
    assert "status.audit" in followed.told("False", "RecordRolledBack")
    assert followed.anchor() == anchor
    # The shipper reads its log again; what it seals now has another head.
    followed.shipper.start()
    wait_for(
        "it is stored again",
        lambda: followed.world.store.query("SELECT root FROM audit.batch WHERE server = %s AND batch = 2", [NAME]),
        tell=followed.shipper.text,
    )
    ((again,),) = followed.world.store.query("SELECT root FROM audit.batch WHERE server = %s AND batch = 2", [NAME])
    assert again != root
    followed.told("False", "RecordRolledBack")
    assert followed.anchor() == anchor
    clear = '{"status":{"audit":null}}'
    followed.world.api.kubectl("patch", "pgs", NAME, "--subresource=status", "--type=merge", "-p", clear)
    followed.told("True", "Flowing")
    assert wait_for("there is an anchor again", followed.anchor, patience=90)["head"] != anchor["head"]


def test_a_shipper_that_finds_its_anchor_missing_says_so_and_leaves_the_file_alone(followed: Followed) -> None:
    followed.shipper.start()
    followed.write("one")
    anchors = followed.anchors
    wait_for("the file has an anchor", lambda: anchors.exists() and anchors.read_text())
    followed.shipper.stop()
    known = json.loads(anchors.read_text())
    root = "SELECT batch, encode(previous, 'hex') FROM audit.batch WHERE server = %s"
    assert (known["server"], known["batch"]) == (NAME, 1)
    assert followed.world.store.query(root, [NAME]) == [(1, "00" * 32)]
    with anchors.open("a") as file:
        file.write(json.dumps({**known, "batch": 99}) + "\n" + '{"server": "torn')
    before = anchors.read_text()
    followed.shipper.start()

    def reasons() -> list[str]:
        return [str(problem.reason) for problem in read_flow(followed.flow).problems]

    wait_for("flow.json says so", lambda: reasons() == ["RecordRolledBack"], tell=followed.shipper.text)
    followed.write("goes on all the same")
    assert anchors.read_text() == before


def test_metrics_count_what_was_stored_and_the_condition_what_was_amiss(followed: Followed) -> None:
    followed.shipper.start()
    followed.write("one")
    with (followed.logs / "postgresql-1.json").open("a") as file:
        file.write("no JSON\n")
    wait_for("it is in quarantine", lambda: metrics(PORT)["vaultbrix_audit_quarantined_lines_total"] == 1)
    found = metrics(PORT)
    assert found['vaultbrix_audit_records_total{kind="other"}'] == 1
    assert found["vaultbrix_audit_batches_total"] >= 1
    assert found["vaultbrix_audit_gaps_total"] == found["vaultbrix_audit_forged_lines_total"] == 0
    assert found["vaultbrix_audit_log_directory_free_bytes"] <= found["vaultbrix_audit_log_directory_size_bytes"]
    wait_for("nothing is unread", lambda: metrics(PORT)["vaultbrix_audit_unread_bytes"] == 0)
    assert found["process_resident_memory_bytes"] > 0
    told = wait_for(
        "the condition tells of it",
        lambda: "quarantined lines 1" in (said := followed.told("True", "Flowing")) and said,
        patience=60,
        pause=1,
    )
    assert "24h" in told


def test_the_operators_metrics_have_the_conditions_of_servers(world: World) -> None:
    world.api.await_condition("pgs", SERVER_NAME, "", type_="AuditFlowing", reason="Flowing", patience=90)
    label = f'vaultbrix_server_condition{{server="{SERVER_NAME}",status="True",type="AuditFlowing"}}'

    def told() -> bool:
        found = metrics(18080 + 10 * SLOT)
        return found.get(label) == 1

    wait_for("it is there", told, tell=lambda: metrics(18080 + 10 * SLOT))
    assert metrics(METRICS_PORT)["vaultbrix_audit_late_seconds"] < 30


def test_a_store_on_the_server_that_it_audits_is_told(world: World) -> None:
    """Its reader gets in as somebody who took "a database of its own" for a second one of the same PostgreSQL."""
    postgres, before = world.postgres, world.postgres.hba_file.read_text()
    postgres.query("CREATE DATABASE audit")

    async def prepare() -> None:
        async with await psycopg.AsyncConnection.connect(
            host=str(postgres.socket), port=postgres.port, user="postgres", dbname="audit", autocommit=True
        ) as connection:
            await schema.migrate(connection)
            verifier = scram.verifier(PASSWORD, b"0123456789abcdef")
            await schema.ensure_login(connection, name="own_auditor", group="audit_read", verifier=verifier)

    asyncio.run(prepare())
    line = f"hostssl audit own_auditor {MACHINE}/32 scram-sha-256\n"
    postgres.hba_file.write_text(before + line)
    postgres.query("SELECT pg_reload_conf()")
    reader = {
        "host": SERVER, "port": str(postgres.port), "dbname": "audit", "username": "own_auditor", "password": PASSWORD,
        "ca.crt": postgres.authority.read_text(),
    }  # fmt: skip
    name = "holds-its-own"
    world.api.apply(secret(SYSTEM, "own-store", reader, for_servers=name))
    world.server(name, auditSecretRef={"name": "own-store", "namespace": SYSTEM})
    try:
        told = world.api.await_condition(
            "pgs", name, "", type_="AuditFlowing", status="False", reason="StoreOnServer", patience=60
        )
        assert "give the store a PostgreSQL of its own" in told["message"]
    finally:
        world.api.delete("pgs", name)
        postgres.hba_file.write_text(postgres.hba_file.read_text().replace(line, ""))
        postgres.query("DROP DATABASE audit WITH (FORCE)")
        for role in ("own_auditor", "audit_read", "audit_append", "audit_tenant", "audit_redact", "audit_manage"):
            postgres.query(f"DROP ROLE IF EXISTS {role}")
