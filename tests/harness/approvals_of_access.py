"""AccessRules that somebody has decided on, and servers that want it."""

from typing import Any

from tests.harness.builders import server

from vaultbrix.access.terms import terms_sha256
from vaultbrix.api.accessrule import AccessRule

REQUIRED = server(accessApproval="Required")
UP_TO_AN_HOUR = server(accessApproval="Required", autoApproveUpTo="1h")
FREE = server()
BOB = "bob@example.com"


def decided(
    of: AccessRule, *, by: str = BOB, verdict: str = "Approved", sha256: str = "", **changes: Any
) -> AccessRule:
    """The rule with a decision on what it gives, and edited afterwards where ``changes`` say so."""
    decision = {"verdict": verdict, "by": by, "sha256": sha256 or terms_sha256(of)}
    return edited(of, decision=decision, **changes)


def edited(of: AccessRule, **changes: Any) -> AccessRule:
    raw = {**of.dump(), "metadata": of.metadata.dump()}
    spec = {key: value for key, value in {**raw["spec"], **changes}.items() if value is not None}
    return AccessRule.parse({**raw, "spec": spec})
