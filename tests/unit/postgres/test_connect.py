"""Every connection of ours has the pinned search_path, whatever its options; tenants' texts have that of their role."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from vaultbrix.postgres.connect import Target, conninfo, of_person, pinned

SOURCE = Path(__file__).resolve().parents[3] / "operator/vaultbrix"
PINNED = "-c search_path=pg_catalog,pg_temp"
TARGET = Target(host="localhost", port=5432, database="postgres", user="postgres")
# Tenants' texts run there; the rehearsal's process connects as its order says (own_search_path).
TEXTS_OF_TENANTS = {"ddl/job/run.py", "ddl/rehearsal/process.py"}


@pytest.mark.parametrize("options", ["", "-c lock_timeout=5s", "-c search_path=public"])
def test_it_comes_last_so_that_no_option_changes_it(options: str) -> None:
    assert conninfo_to_dict(conninfo(replace(TARGET, options=options)))["options"] == f"{options} {PINNED}".strip()


def test_options_of_several_sources_come_before_it() -> None:
    assert pinned("", "-c a=1", "-c b=2") == f"-c a=1 -c b=2 {PINNED}"


def test_a_text_of_a_tenant_sees_the_path_of_its_role() -> None:
    assert "options" not in conninfo_to_dict(conninfo(replace(TARGET, own_search_path=True)))


def test_where_there_is_a_password_the_server_has_to_know_its_verifier() -> None:
    with_password = replace(TARGET, password="secret")
    assert conninfo_to_dict(conninfo(with_password))["require_auth"] == "scram-sha-256"
    # An older libpq refuses what it does not know; it gives no password for less than SCRAM all the same.
    older = conninfo_to_dict(conninfo(replace(with_password, any_libpq=True)))
    assert "require_auth" not in older
    assert older["channel_binding"] == "require"
    # The agent's, by peer.
    assert not {"require_auth", "channel_binding"} & conninfo_to_dict(conninfo(TARGET)).keys()


def test_a_person_gives_no_password_without_tls_or_in_clear_unless_the_environment_says_so() -> None:
    careful = {"sslmode": "require", "require_auth": "!password,!md5"}
    assert conninfo_to_dict(of_person({"PGHOST": "db"})) == careful
    said = {"PGSSLMODE": "verify-full", "PGREQUIREAUTH": "scram-sha-256"}
    assert of_person(said) == of_person({"PGSERVICE": "store"}) == ""


def test_every_connection_with_a_password_asks_for_proof() -> None:
    connecting = {
        str(path.relative_to(SOURCE)): path.read_text()
        for path in SOURCE.rglob("*.py")
        if re.search(r"\bpsycopg\.((Async)?Connection\.)?connect\(", path.read_text())
    }
    # The rehearsal's process is handed a string of ``conninfo``.
    careless = {name for name, text in connecting.items() if not re.search(r"_proof\(|of_person\(|=SCRAM", text)}
    assert careless == {"ddl/rehearsal/process.py"}


def test_a_peer_that_is_gone_without_a_word_is_noticed_within_half_a_minute() -> None:
    told = conninfo_to_dict(conninfo(TARGET))
    idle, interval, count = (int(str(told[f"keepalives_{name}"])) for name in ("idle", "interval", "count"))
    assert idle + interval * count <= 30
    assert int(str(told["tcp_user_timeout"])) <= 30_000


def test_no_connection_goes_around_it() -> None:
    connecting = {
        str(path.relative_to(SOURCE)): path.read_text()
        for path in SOURCE.rglob("*.py")
        if re.search(r"\bpsycopg\.((Async)?Connection\.)?connect\(", path.read_text())
    }
    unpinned = {name for name, text in connecting.items() if "pinned(" not in text}
    assert unpinned == TEXTS_OF_TENANTS
