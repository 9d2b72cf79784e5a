"""The chart as Helm renders it."""

import shutil
import subprocess
from typing import Any

import yaml
from tests.harness.shell import TOP, binaries

from vaultbrix.ddl.job.manifest import ddl_job

DATA_API = ("dataAPI.enabled=true", "dataAPI.url=https://api.example.com:8443", "dataAPI.tls.secretName=api-tls")


def available() -> bool:
    """Whether there is a Helm to ask."""
    return (binaries() / "helm").exists() or shutil.which("helm") is not None


# Of the release that is rendered, and where it has its Jobs.
NAMESPACE, JOBS = "default", "default-jobs"


def helm(*values: str, namespace: str = NAMESPACE, upgrade: bool = False) -> subprocess.CompletedProcess[str]:
    """Render it with these values, as --set takes them; a failure is returned, too."""
    program = shutil.which("helm") or str(binaries() / "helm")
    options = [part for value in values for part in ("--set", value)]
    options += ["--is-upgrade"] if upgrade else []
    command = [program, "template", "x", str(TOP / "charts/vaultbrix"), "--kube-version", "1.34.0", *options]
    command += ["--namespace", namespace]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(*values: str, namespace: str = NAMESPACE, upgrade: bool = False) -> list[Any]:
    """All objects of a release with these values."""
    done = helm(*values, namespace=namespace, upgrade=upgrade)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of(documents: list[Any], kind: str) -> list[Any]:
    """The objects of one kind."""
    return [document for document in documents if document["kind"] == kind]


def postgresql(documents: list[Any]) -> Any:
    """The Pod of PostgreSQL, agent and shipper: its spec."""
    (found,) = [d for d in of(documents, "StatefulSet") if d["metadata"]["name"].endswith("-postgresql")]
    return found["spec"]["template"]["spec"]


def configuration(documents: list[Any]) -> dict[str, str]:
    """The files of PostgreSQL's ConfigMap, by name."""
    (found,) = [d for d in of(documents, "ConfigMap") if d["metadata"]["name"].endswith("-postgresql")]
    data: dict[str, str] = found["data"]
    return data


def approvals_job() -> dict[str, Any]:
    """The Job of some approval, as the operator makes it."""
    return ddl_job(
        name="x", namespace=JOBS, uid="u", approval="a/b", deadline_seconds=1, image="i", pull_policy="Never",
        pull_secrets=(), secret="s",
    )  # fmt: skip
