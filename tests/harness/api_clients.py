"""The libraries that applications call the data API with; each runs as a process of its own."""

import json
import re
from collections.abc import Sequence
from typing import Any

from tests.harness.gateway import Api
from tests.harness.known_keys import DOMAIN
from tests.harness.postgrest import program
from tests.harness.shell import TOP, run

CLIENTS = TOP / "tests/api/clients"
NAMES = ("supabase-js", "postgrest-py")


def knows(client: str) -> list[str]:
    """Names of the calls that its program has, in their order."""
    program = next(CLIENTS.glob(f"{client}.*")).read_text()
    return re.findall(r"""^ +"?(\w+)"?: (?:\(\) =>|lambda:)""", program, re.MULTILINE)


def call(
    client: str, api: Api, key: str, names: Sequence[str], *, host: str = DOMAIN, token: str | None = None
) -> dict[str, dict[str, Any]]:
    """Make these calls one after another; returns data, count and error of each by its name."""
    asked = {
        "modules": str(program("supabase")),
        "url": f"http://{host}:{api.nginx.port}",
        "address": f"http://127.0.0.1:{api.nginx.port}/rest/v1",
        "host": host,
        "key": key,
        "token": token,
        "names": names,
    }
    command = {
        "supabase-js": ["node", CLIENTS / "supabase-js.mjs"],
        "postgrest-py": [program("python"), CLIENTS / "postgrest-py.py"],
    }[client]
    # The Python of the tests has its own libraries.
    done = run(*command, input_text=json.dumps(asked), env={"PYTHONPATH": ""})
    given: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return given
