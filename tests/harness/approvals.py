"""Approvals of the world: what users and admins do with them, and what a kubelet would do with their Jobs."""

import base64
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.kube_http import Object
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for
from tests.harness.world import JOBS, World, approval

APPROVALS = "/apis/vaultbrix.com/v1alpha1/namespaces"
FINAL = ("Succeeded", "Failed", "Denied", "Expired", "Invalid")


@dataclass
class Approval:
    """One DDLApproval."""

    world: World
    team: str
    name: str

    @property
    def path(self) -> str:
        """In the API."""
        return f"{APPROVALS}/{self.team}/ddlapprovals/{self.name}"

    def read(self) -> Object:
        """The object."""
        return self.world.api.request("GET", self.path)

    @property
    def uid(self) -> str:
        """Its uid, which names what is made for it."""
        return str(self.read()["metadata"]["uid"])

    @property
    def status(self) -> Object:
        """As it is now."""
        found: Object = self.read().get("status", {})
        return found

    def condition(self, type_: str) -> Object:
        """One condition, empty when it is not there."""
        found = [c for c in self.status.get("conditions", []) if c["type"] == type_]
        return dict(found[0]) if found else {}

    def rehearsed(self) -> Object:
        """Wait for the rehearsal."""
        found: Object = wait_for(
            f"{self.name} is rehearsed", lambda: self.status.get("rehearsal"), patience=60, tell=self.tell
        )
        return found

    def decide(self, verdict: str = "Approved", **more: Any) -> None:
        """An admin's decision on what is shown."""
        sha256 = wait_for(f"{self.name} shows its hash", lambda: self.status.get("sha256"), tell=self.tell)
        decision = {"verdict": verdict, "by": "boss@example.com", "sha256": sha256, **more}
        said = self.world.api.patch("ddl", self.name, self.team, {"spec": {"decision": decision}})
        assert "patched" in said, said

    def phase(self, *wanted: str, patience: float = 60) -> Object:
        """Wait for one of the phases; returns the status."""

        def there() -> Object | None:
            status = self.status
            return status if status.get("phase") in wanted else None

        return wait_for(f"{self.name} is {' or '.join(wanted)}", there, patience=patience, tell=self.tell)

    def delete(self) -> None:
        """Withdraw it."""
        self.world.api.delete("ddl", self.name, self.team)

    def tell(self) -> str:
        """How things stand."""
        return json.dumps(self.status.get("conditions"), indent=1) + self.world.operator.text()[-3000:]

    def job(self) -> Object:
        """Its Job; empty when there is none."""
        return self.world.api.get("job", f"ddl-{self.uid}", JOBS)

    def await_job(self) -> Object:
        """Wait until there is one."""
        return wait_for("there is a Job", self.job, tell=self.tell)

    def pod(self, name: str = "") -> "Pod":
        """A Pod of its Job as a kubelet makes it; not started yet."""
        self.await_job()
        directory = self.world.directory / f"pod-{name}{secrets.token_hex(4)}"
        directory.mkdir()
        data = self.world.api.get("secret", f"ddl-{self.uid}", JOBS)["data"]
        for key, value in data.items():
            (directory / key).write_bytes(base64.b64decode(value))
        return Pod(self, directory)

    def left(self) -> list[str]:
        """What is still there of its run: login, Secret, open pass."""
        uid = self.uid
        logins = f"SELECT rolname FROM pg_roles WHERE rolname ~ '^vaultbrix_[dr]_{uid.replace('-', '')}$'"
        found = [str(row[0]) for row in self.world.postgres.query(logins.encode().decode())]  # type: ignore[arg-type]
        found += ["pass"] * len(
            self.world.postgres.query(
                "SELECT 1 FROM vaultbrix.ddl_pass WHERE pass_id = %s AND revoked_at IS NULL", [uid]
            )
        )
        return found + (["Secret"] if self.world.api.get("secret", f"ddl-{uid}", JOBS) else [])


@dataclass
class Pod:
    """The process that a Job starts, and what a cluster tells of it."""

    of: Approval
    directory: Path

    @property
    def _termination(self) -> Path:
        return self.directory / "termination-log"

    def start(self) -> Process:
        """Start it."""
        self._termination.write_text("")
        command = [*VAULTBRIX, "ddl", "run", "--directory", str(self.directory)]
        process = Process(command, self.directory / "log", env={"TERMINATION_LOG": str(self._termination)})
        process.start()
        return process

    def run(self) -> int:
        """From start to end, with what a cluster does of it; returns the exit code."""
        process = self.start()
        wait_for("the Pod has ended", lambda: not process.running, patience=60, tell=process.text)
        code = process.stop() or 0
        self.report(code)
        return code

    def report(self, code: int) -> None:
        """Have the Job end as the cluster's controllers would have it; 1 is tried again."""
        if code == 1:
            return
        uid, api = self.of.uid, self.of.world.api
        name = f"ddl-{uid}-{secrets.token_hex(3)}"
        container = {"name": "ddl", "image": "none"}
        api.apply({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name, "namespace": JOBS, "labels": {"batch.kubernetes.io/job-name": f"ddl-{uid}"},
            },
            # As it is, so that it is a Pod that its namespace takes.
            "spec": self.of.job()["spec"]["template"]["spec"],
        })  # fmt: skip
        state = {"terminated": {"exitCode": code, "message": self._termination.read_text()}}
        status: Object = {"containerStatuses": [
            {**container, "imageID": "", "ready": False, "restartCount": 0, "state": state}
        ]}  # fmt: skip
        _patch_status(self.of.world, "pod", name, status)
        finish_job(self.of, failed=code != 0)


def finish_job(of: Approval, *, failed: bool) -> None:
    """Write a Job's end into its status."""
    now = "2026-01-01T00:00:00Z"
    kinds = ["FailureTarget", "Failed"] if failed else ["SuccessCriteriaMet", "Complete"]
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds]
    ended = {} if failed else {"completionTime": now, "succeeded": 1}
    _patch_status(of.world, "job", f"ddl-{of.uid}", {"startTime": now, "conditions": conditions, **ended})


def _patch_status(world: World, kind: str, name: str, status: Object) -> None:
    body = json.dumps({"status": status})
    world.api.kubectl("-n", JOBS, "patch", kind, name, "--subresource=status", "--type=merge", "-p", body)


def submit(world: World, team: str, name: str, tenant: str, sql: str, **spec: Any) -> Approval:
    """Create one."""
    world.api.apply(approval(team, name, tenant, sql, **spec))
    return Approval(world, team, name)
