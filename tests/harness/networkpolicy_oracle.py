"""Who may connect, by NetworkPolicies as an independent implementation of their meaning reads them (cyclonus)."""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.kube_http import Object
from tests.harness.shell import binaries, run


@dataclass(frozen=True)
class Attempt:
    """A connection from an address outside the cluster to a Pod, given by its namespace and labels."""

    source: str
    port: int
    namespace: str
    labels: Mapping[str, str]
    protocol: str = "TCP"

    def dump(self) -> Object:
        """As cyclonus reads it."""
        pod = {"Namespace": self.namespace, "PodLabels": dict(self.labels)}
        return {
            "Source": {"IP": self.source},
            "Destination": {"IP": "10.244.0.10", "Internal": pod},
            "ResolvedPort": self.port,
            "Protocol": self.protocol,
        }


def allowed(policies: Sequence[Object], attempts: Sequence[Attempt]) -> list[bool]:
    """Whether each attempt may connect, in order, when exactly these policies are in the cluster."""
    with tempfile.TemporaryDirectory() as folder:
        written, asked = Path(folder) / "policies.json", Path(folder) / "attempts.json"
        written.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(policies)}))
        asked.write_text(json.dumps([attempt.dump() for attempt in attempts]))
        said = run(
            binaries() / "cyclonus", "analyze", "--mode=query-traffic", "--simplify-policies=false",
            f"--policy-path={written}", f"--traffic-path={asked}",
        ).stdout  # fmt: skip
    verdicts = re.findall(r"IS ALLOWED\? *\| *(TRUE|FALSE) *\|", said)
    assert len(verdicts) == len(attempts), said
    return [verdict == "TRUE" for verdict in verdicts]
