"""kubectl against the cluster of the environment."""

import json
from typing import Any

from tests.harness.kube_http import Object
from tests.harness.shell import run, wait_for

SYSTEM, JOBS, TEAM = "vaultbrix-system", "vaultbrix-system-jobs", "team-acme"


class Cluster:
    """The cluster that KUBECONFIG names."""

    def kubectl(self, *arguments: str, check: bool = True, input_text: str | None = None) -> str:
        """Run kubectl; returns what it printed, its errors included."""
        done = run("kubectl", *arguments, check=check, input_text=input_text, timeout=180)
        return done.stdout if check else done.stdout + done.stderr

    def items(self, kind: str, namespace: str = SYSTEM, labels: str = "") -> list[Object]:
        """All objects of a kind."""
        found: list[Object] = json.loads(self.kubectl("-n", namespace, "get", kind, "-l", labels, "-o", "json"))[
            "items"
        ]
        return found

    def get(self, kind: str, name: str, namespace: str = TEAM) -> Object:
        """The object, empty when it does not exist."""
        said = self.kubectl("-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found")
        found: Object = json.loads(said) if said.strip() else {}
        return found

    def apply(self, body: Object) -> None:
        """Apply an object."""
        self.kubectl("apply", "-f", "-", input_text=json.dumps(body))

    def delete(self, kind: str, name: str, namespace: str = TEAM) -> None:
        """Delete an object and wait until it is gone."""
        self.kubectl("-n", namespace, "delete", kind, name, "--ignore-not-found", "--timeout=120s")

    def decide(self, name: str, *, by: str = "boss@example.com", sha256: str = "", verdict: str = "Approved") -> str:
        """Decide on an approval as an admin of that name, with the hash that it shows unless another is given.

        Returns what the API server said, be it a refusal.
        """
        shown = wait_for(
            "the text is parsed", lambda: self.get("ddl", name).get("status", {}).get("sha256"), patience=60
        )
        patch = {"spec": {"decision": {"verdict": verdict, "by": by, "sha256": sha256 or shown}}}
        person = (f"--as={by}", "--as-group=system:masters")
        return self.kubectl(
            "-n", TEAM, "patch", "ddl", name, "--type=merge", "-p", json.dumps(patch), *person, check=False
        )

    def phase(self, name: str, *phases: str) -> dict[str, Any]:
        """Wait until an approval is in one of these phases; returns its status."""

        def status() -> dict[str, Any] | None:
            found: dict[str, Any] = self.get("ddl", name).get("status", {})
            return found if found.get("phase") in phases else None

        return wait_for(f"ddl {name} is {phases}", status, patience=120, tell=lambda: self.get("ddl", name))

    def sql(self, statement: str) -> str:
        """Run a statement as superuser in the Pod of PostgreSQL; returns its rows as text."""
        psql = ["psql", "-h", "/run/postgresql", "-p", "5433", "-U", "postgres", "-XAtc", statement]
        return self.kubectl("-n", SYSTEM, "exec", "vaultbrix-postgresql-0", "-c", "postgresql", "--", *psql).strip()
