"""Who may connect, by NetworkPolicies as an independent implementation of their meaning reads them (cyclonus)."""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.kube_http import Object
from tests.harness.shell import binaries, run


@dataclass(frozen=True)
class Attempt:
    """A connection to a Pod, given by its namespace and labels, from an address outside the cluster.

    Or from a Pod with that address, in ``source_namespace`` and with ``source_labels``.
    """

    source: str
    port: int
    namespace: str
    labels: Mapping[str, str]
    protocol: str = "TCP"
    source_namespace: str = ""
    source_labels: Mapping[str, str] = field(default_factory=dict)

    def dump(self) -> Object:
        """As cyclonus reads it."""
        pod = {"Namespace": self.namespace, "PodLabels": dict(self.labels)}
        source: Object = {"IP": self.source}
        if self.source_namespace:
            source["Internal"] = {
                "Namespace": self.source_namespace,
                # As the API server labels every namespace.
                "NamespaceLabels": {"kubernetes.io/metadata.name": self.source_namespace},
                "PodLabels": dict(self.source_labels),
            }
        return {
            "Source": source,
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


def blind_to_pods(policies: Sequence[Object]) -> list[Object]:
    """The policies as plugins read them for which an ipBlock matches no Pod of the cluster, such as Cilium.

    For connections from Pods only: the addresses of all others still match there.
    """
    return [
        {**policy, "spec": {**policy["spec"], "ingress": _without_blocks(policy["spec"].get("ingress", []))}}
        for policy in policies
    ]


def _without_blocks(rules: Sequence[Object]) -> list[Object]:
    kept = []
    for rule in rules:
        peers = [peer for peer in rule.get("from", []) if "ipBlock" not in peer]
        # Without any peer a rule would let everybody in.
        if peers or "from" not in rule:
            kept.append({**rule, "from": peers} if peers else rule)
    return kept
