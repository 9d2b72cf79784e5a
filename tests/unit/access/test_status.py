"""The status of an AccessRule: every condition every time, and Ready only when every layer is."""

from typing import Any

import pytest
from tests.harness.builders import HOUR, MINUTE, NOW, named, rule, server, tenant, true

from vaultbrix.access.decisions import RuleFacts, decide, rule_status
from vaultbrix.api.accessrule import AccessRule, AccessRuleStatus
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient

OWNED = ["Accepted", "NetworkPolicyApplied", "LoginReady", "Ready"]
ENFORCED = {"conditions": [{**true("Enforced")[0], "observedGeneration": 1}]}
FAILED = Transient(Reason.UNREACHABLE, "away")


def status(of: AccessRule, at: Any = MINUTE, **facts: Any) -> AccessRuleStatus:
    verdict = decide(of, tenant(), server(), NOW + at)
    return rule_status(of, RuleFacts(verdict, **{"in_cluster": True, "covered": True, **facts}), NOW + at)


RULES = {
    "open": rule(status=ENFORCED),
    "not enforced": rule(),
    "ended": rule(ttl="1s"),
    "revoked": rule(revoked=True),
    "rejected": rule(cidrs=["10.0.0.0/8"]),
    "later": rule(startsAt="2026-12-01T13:00:00Z"),
    "own login": rule(login="PerRule", status=ENFORCED),
}


@pytest.mark.parametrize("of", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("facts", [{}, {"covered": None}, {"in_cluster": False}, {"login_failure": FAILED}])
def test_every_condition_is_there_every_time(of: AccessRule, facts: dict[str, Any]) -> None:
    found = [c.type for c in status(of, **facts).conditions]
    ended = of in (RULES["ended"], RULES["revoked"])
    assert [type_ for type_ in found if type_ != "Stalled"] == (OWNED[:-1] if ended else OWNED)


def ready(of: AccessRule, **facts: Any) -> tuple[str, str]:
    condition = named(status(of, **facts).conditions, "Ready")
    return condition.status, condition.reason


def test_a_rule_is_ready_only_when_every_layer_is() -> None:
    assert ready(RULES["open"]) == ("True", "Ready")
    assert ready(RULES["not enforced"]) == ("False", "AgentPending")
    assert ready(RULES["open"], covered=False) == ("False", "Waiting")
    assert ready(RULES["open"], covered=None) == ("False", "Waiting")
    assert ready(RULES["open"], covered=False, in_cluster=False) == ("True", "Ready")
    assert ready(RULES["own login"], login_failure=FAILED) == ("False", "Unreachable")
    assert ready(RULES["rejected"]) == ("False", "PrefixTooWide")
    assert ready(RULES["later"]) == ("False", "NotYet")


def test_times_are_written_once() -> None:
    opened = status(rule())
    again = status(rule(status=opened.dump()), at=HOUR)
    assert again.opened_at == opened.opened_at == NOW + MINUTE
    ended = status(rule(status=opened.dump()), at=3 * HOUR)
    later = status(rule(status=ended.dump()), at=4 * HOUR)
    assert later.closed_at == ended.closed_at == NOW + 3 * HOUR
    assert later.closed_reason == "Expired"


def test_the_secret_of_a_login_is_firstas_long_as_it_may_be_there() -> None:
    own = RULES["own login"]
    made = status(own, has_login=True)
    assert made.secret_name == "jane-access"
    before = own.model_copy(update={"status": made})
    assert status(before, has_login=False, login_failure=FAILED).secret_name == "jane-access"
    assert status(before, has_login=False).secret_name is None


def test_the_server_is_firstand_stays_when_the_tenant_is_gone() -> None:
    first = status(rule(), server="main")
    assert first.server == "main"
    assert status(rule(status=first.dump()), server=None).server == "main"
