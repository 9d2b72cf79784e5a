"""A shipper's login speaks for its own server: the store refuses what it does for another one."""

import asyncio
import base64
from typing import LiteralString

import psycopg
import pytest
from tests.harness.apiserver import ApiServer
from tests.harness.audit_store import Store
from tests.harness.database import directory
from tests.harness.shell import wait_for
from tests.harness.written_log import Log, line

from vaultbrix.audit.seal import key_of, public_keys
from vaultbrix.install.bootstrap import Release, make_secrets
from vaultbrix.kube.client import Kube

STATEMENTS: tuple[LiteralString, ...] = (
    "INSERT INTO audit.checkpoint(server, batch) VALUES (%(server)s, 1)",
    "UPDATE audit.checkpoint SET batch = batch + 1 WHERE server = %(server)s",
    "UPDATE audit.checkpoint SET server = 'own' WHERE server = %(server)s",
    "INSERT INTO audit.logfile VALUES (%(server)s, '1.json', 1, 1, '\\x00')",
    "INSERT INTO audit.missing VALUES (%(server)s, '65.1', 1, 2, '1.json', 0)",
    "DELETE FROM audit.logfile WHERE server = %(server)s",
    "DELETE FROM audit.missing WHERE server = %(server)s",
    "INSERT INTO audit.unheard(server, session_id) VALUES (%(server)s, '65.1')",
    "INSERT INTO audit.gap(server, file, position, reason) VALUES (%(server)s, '1.json', 0, 'none')",
    "INSERT INTO audit.quarantine(server, file, position, line, reason) VALUES (%(server)s, '', 0, '\\x00', 'none')",
    "INSERT INTO audit.record(server, at, session_id, line_num, kind, tag, file, position, keep)"
    " VALUES (%(server)s, '2026-12-01', '65.1', 1, 'other', '', '1.json', 0, 400)",
    "INSERT INTO audit.batch VALUES (%(server)s, 9, now(), '', 0, 0, 0, '\\x00', '\\x00', '\\x00', '\\x00')",
    "INSERT INTO audit.part VALUES (%(server)s, 9, 'gap', 1, '\\x00')",
    "SELECT audit.seal_event(1, %(server)s, 1, 0, '\\x00', '\\x00')",
)


def refused(connection: psycopg.Connection, statement: LiteralString, server: str) -> bool:
    """Whether the store says that the login does not ship the server."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement, {"server": server})
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        return "does not ship server" in str(error)
    except psycopg.Error:
        return False
    return False


def test_the_login_of_one_server_can_do_nothing_for_another(store: Store) -> None:
    login = store.login("own_shipper", "audit_append")
    store.bind("own", "own_shipper")
    # What the other server has in the store: a shipper at work leaves these.
    for server in ("own", "other"):
        store.query("INSERT INTO audit.checkpoint(server, batch) VALUES (%s, 0)", [server])
        store.query("INSERT INTO audit.logfile VALUES (%s, '0.json', 1, 1, '\\x00')", [server])
        store.query("INSERT INTO audit.missing VALUES (%s, '65.0', 1, 2, '0.json', 0)", [server])
    store.query("SELECT audit.ensure_partition('2026-12-01', 400)")
    environment = store.environment(login)
    with psycopg.connect(
        host="localhost", port=int(environment["PGPORT"]), dbname=environment["PGDATABASE"], user=environment["PGUSER"],
        password=environment["PGPASSWORD"], sslmode="verify-full", sslrootcert=environment["PGSSLROOTCERT"],
        autocommit=True,
    ) as connection:  # fmt: skip
        for statement in STATEMENTS:
            if "VALUES (%(server)s, 1)" not in statement:
                assert refused(connection, statement, "other"), statement
            assert not refused(connection, statement, "own"), statement
        assert refused(connection, STATEMENTS[0], "a third one")
        for statement in (
            "UPDATE audit.shipper SET server = 'other'",
            "INSERT INTO audit.shipper VALUES ('own_shipper', 'other')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_shipper_with_anothers_files_stores_nothing_and_says_why(store: Store) -> None:
    with directory() as path:
        log = Log(path / "log", store, "stolen")
        store.query("DELETE FROM audit.shipper WHERE server = 'stolen'")
        log.write("1", line("a"))
        log.shipper.start()
        try:
            wait_for("it is told", lambda: "does not ship server stolen" in log.shipper.text(), tell=log.shipper.text)
            assert log.messages() == []
            store.bind("stolen")
            log.await_messages("a")
            assert log.gaps() == []
        finally:
            log.shipper.stop()


def test_each_server_gets_a_login_and_a_key_that_are_good_for_it_alone(
    api_alone: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_alone.kubeconfig))
    namespace = api_alone.namespace("bootstrap")

    async def make(*servers: str) -> dict[str, tuple[str, ...]]:
        kube = await Kube.connect("tests")
        try:
            release = Release(namespace, "vaultbrix", ("postgresql",), ("audit",), servers)
            _, logins = await make_secrets(kube, release)
            return {login["username"]: servers for login, _, servers in logins if servers}
        finally:
            await kube.close()

    def secret(purpose: str) -> dict[str, str]:
        data = api_alone.get("secret", f"vaultbrix-{purpose}", namespace)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    assert asyncio.run(make("main")) == {"vaultbrix_shipper": ("main",)}
    before = secret("audit-shipper")
    assert asyncio.run(make("main", "db1")) == {"vaultbrix_shipper": ("main",), "vaultbrix_shipper_db1": ("db1",)}
    own, other = secret("audit-shipper"), secret("audit-shipper-db1")
    assert own == before
    for key in ("username", "password", "signing.key", "signing.pub"):
        assert own[key] != other[key]
    keys = public_keys(secret("audit-reader")["signing.pub"].encode())
    signers = {
        server: next(iter(public_keys(found["signing.pub"].encode())))
        for server, found in (("main", own), ("db1", other))
    }
    good = {(server, of) for server in signers for of, signer in signers.items() if key_of(server, signer, keys)}
    assert good == {("main", "main"), ("db1", "db1")}
    asyncio.run(make("main", "db1"))
    assert public_keys(secret("audit-reader")["signing.pub"].encode()).keys() == keys.keys()
