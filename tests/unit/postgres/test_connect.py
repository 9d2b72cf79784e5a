"""Every connection of ours has the pinned search_path, whatever its options; tenants' texts have that of their role."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from vaultbrix.postgres.connect import Target, conninfo, pinned

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


def test_no_connection_goes_around_it() -> None:
    connecting = {
        str(path.relative_to(SOURCE)): path.read_text()
        for path in SOURCE.rglob("*.py")
        if re.search(r"\bpsycopg\.((Async)?Connection\.)?connect\(", path.read_text())
    }
    unpinned = {name for name, text in connecting.items() if "pinned(" not in text}
    assert unpinned == TEXTS_OF_TENANTS
