"""People at work on approvals, and what the operator or a Job would have written."""

import json
from typing import Any

from tests.harness.command_line import READ, Person, may
from tests.harness.kube_http import Object
from tests.harness.processes import VAULTBRIX
from tests.harness.shell import run, wait_for
from tests.harness.world import JOBS, World, approval

from vaultbrix.ddl.plan import digest

DROP = "DROP TABLE orders"
SHA = digest(DROP).hex()
STATEMENT = {
    "position": 1,
    "tag": "DROP TABLE",
    "gated": True,
    "sql": DROP,
    "objects": ["orders"],
    "danger": "Table",
    "lock": "AccessExclusiveLock",
}
NOW = "2026-11-25T12:00:00Z"
REHEARSAL = {
    "possible": True,
    "at": NOW,
    "durationMs": 12,
    "drops": ["table tenant_acme.orders", "view tenant_acme.report"],
    "affected": [
        {"object": "tenant_acme.orders", "rows": 12345, "bytes": 3 * 1024 * 1024},
        {"object": "tenant_acme.items", "rows": -1, "bytes": 8192, "rewritten": True},
    ],
    "locks": [{"object": "tenant_acme.items", "mode": "ShareRowExclusiveLock"}],
}
SORTING = {"statement": 2, "of": 3, "phase": "sorting", "percent": 40}
FAILED = {"possible": True, "at": NOW, "error": {"sqlstate": "2BP01", "message": "others depend on it", "statement": 1}}


def requester(world: World, team: str) -> Person:
    """Somebody who may ask and not decide, known to the API server by another name than the admin."""
    return Person.of(world, team, may(READ, "tenants"), may([*READ, "create"], "ddlapprovals"))


def approvals(world: World, team: str) -> list[Object]:
    items: list[Object] = json.loads(world.api.kubectl("-n", team, "get", "ddl", "-o", "json"))["items"]
    return items


def tenant_with_orders(world: World, team: str) -> str:
    """A tenant that has a table ``orders``."""
    name = world.tenant(team)
    role = f"tenant_{name.replace('-', '_')}"
    with world.postgres.connect() as admin:
        admin.execute(f"CREATE TABLE {role}.orders(id int); ALTER TABLE {role}.orders OWNER TO {role}".encode())
    return name


def read_by_operator(world: World, team: str, name: str) -> None:
    wait_for("the operator has read it", lambda: world.api.get("ddl", name, team)["status"].get("sha256"))


def decision(world: World, team: str, name: str) -> Object:
    found: Object = world.api.get("ddl", name, team)["spec"].get("decision", {})
    return found


def approval_with_status(
    world: World, team: str, name: str, *, sql: str = DROP, spec: Object | None = None, **status: Any
) -> str:
    """An approval, and its status as an operator would write it."""
    world.api.apply(approval(team, name, "acme", sql, **(spec or {})))
    whole = {"observedGeneration": 1, "phase": "Pending", "sha256": digest(sql).hex(), "statements": [STATEMENT]}
    report(world, team, name, **{**whole, **status})
    return name


def report(world: World, team: str, name: str, **status: Any) -> None:
    world.api.kubectl(
        "-n", team, "patch", "ddl", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )


def run_job(world: World, uid: str) -> None:
    """What the kubelet does: the Job's Pod, with the Secret mounted."""
    wait_for("the Job is there", lambda: world.api.get("job", f"ddl-{uid}", JOBS))
    directory = world.directory / f"job-{uid}"
    directory.mkdir()
    for key, value in world.secret(JOBS, f"ddl-{uid}").items():
        (directory / key).write_text(value)
    run(*VAULTBRIX, "ddl", "run", "--directory", directory)
