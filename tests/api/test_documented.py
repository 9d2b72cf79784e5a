"""docs/api.md: its commands give what it says, and its tables leave nothing out."""

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.harness.database import Database
from tests.harness.gateway import Api
from tests.harness.known_keys import DOMAIN, user_token, users_secret
from tests.harness.postgrest import PostgREST
from tests.harness.shell import TOP, run

PAGE = (TOP / "docs/api.md").read_text()
GATEWAY = TOP / "operator/vaultbrix/gateway"
# A block of SQL, or a command with the lines that it prints.
STEP = re.compile(r"^```sql\n([\s\S]*?)^```|^    \$ (curl .*)\n((?:    .*\n)*)", re.MULTILINE)


@pytest.fixture
def environment(api: Api, tmp_path: Path) -> Mapping[str, str]:
    """What the page has set before; no server knows the name of the API's host."""
    (tmp_path / ".curlrc").write_text(f'resolve = "{DOMAIN}:{api.nginx.port}:127.0.0.1"\n')
    jane = user_token(
        users_secret("acme"),
        sub="11111111-1111-4111-8111-111111111111",
        exp=int(time.time()) + 600,
    )
    return {
        "API": f"http://{DOMAIN}:{api.nginx.port}/rest/v1",
        "SECRET": api.secret["acme"],
        "PUBLISHABLE": api.publishable["acme"],
        "JANE": jane,
        "CURL_HOME": str(tmp_path),
    }


@pytest.fixture
def without_grants(database: Database) -> Iterator[None]:
    """As a tenant is before it has granted anything."""
    roles = "tenant_acme_anon, tenant_acme_authenticated"
    with database.login("tenant_acme") as session:
        session.execute(f"REVOKE USAGE ON SCHEMA tenant_acme FROM {roles}")  # type: ignore[arg-type]
        yield
        session.execute(f"GRANT USAGE ON SCHEMA tenant_acme TO {roles}")  # type: ignore[arg-type]


@pytest.mark.usefixtures("without_grants")
def test_each_command_of_the_page_prints_what_it_says(
    database: Database, postgrest: PostgREST, environment: Mapping[str, str]
) -> None:
    steps = list(STEP.finditer(PAGE))
    assert len(steps) >= 14
    # An admin would approve what waits for that.
    database.set_gate(enabled=False)
    try:
        for sql, command, printed in (step.groups() for step in steps):
            if sql:
                with database.login("tenant_acme") as session:
                    session.execute(sql)
                postgrest.read_again()
                continue
            lines = [line[4:] for line in printed.splitlines()]
            assert run("bash", "-c", command, env=environment).stdout.splitlines() == lines, command
    finally:
        with database.login("tenant_acme") as session:
            session.execute("DROP TABLE todos")
        database.set_gate(enabled=True)


def test_each_error_of_the_gateway_is_in_the_table() -> None:
    source = "".join(path.read_text() for path in (GATEWAY / "refusals.py", GATEWAY / "nginx.conf.j2"))
    ours = set(re.findall(r'"((?:VBX|PGRST)\d{3})"', source))
    table = PAGE.split("## Errors")[1].split("\n## ")[0]
    assert set(re.findall(r"`((?:VBX|PGRST)\d{3})`", table)) == ours
