"""What GitOps tools make of an object: kstatus' generic rules (sigs.k8s.io/cli-utils, pkg/kstatus/status)."""

from typing import Any

CURRENT, IN_PROGRESS, FAILED, TERMINATING = "Current", "InProgress", "Failed", "Terminating"


def kstatus(manifest: dict[str, Any]) -> str:
    """The status of a custom resource, for which kstatus has no rules of its own."""
    metadata, status = manifest["metadata"], manifest.get("status", {})
    if "deletionTimestamp" in metadata:
        return TERMINATING
    if status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return IN_PROGRESS
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
    for type_, answer in (("Reconciling", IN_PROGRESS), ("Stalled", FAILED)):
        if conditions.get(type_) == "True":
            return answer
    return CURRENT if conditions.get("Ready", "True") == "True" else IN_PROGRESS
