"""What a rule lets in under a tenant's role, it lets in under the tenant's second login, too."""

from ipaddress import ip_address

from tests.harness.builders import HOUR, MINUTE, NOW, grant

from vaultbrix.agent.desired import Desired, Session
from vaultbrix.api.login_names import second_login
from vaultbrix.grants.state import AgentState, Ended, GrantRecord, Opened

ADDRESS, OTHER = ip_address("203.0.113.7"), ip_address("203.0.113.8")
SECOND = second_login("tenant_acme")


def state() -> AgentState:
    opened = AgentState("main")
    opened.apply(Opened(grant=GrantRecord.of(grant("203.0.113.7/32"), NOW), at=NOW))
    return opened


def test_the_record_names_tenant_person_and_rule_for_either_login_also_after_the_end() -> None:
    open_ = state()
    at = NOW + MINUTE
    assert open_.attribute(SECOND, ADDRESS, at) == open_.attribute("tenant_acme", ADDRESS, at)
    assert open_.attribute(SECOND, ADDRESS, at).tenant
    assert open_.tenant_of(SECOND) == open_.tenant_of("tenant_acme") is not None
    assert open_.attribution_changes(SECOND) == open_.attribution_changes("tenant_acme")
    assert len(open_.covering(SECOND, ADDRESS)) == 1
    assert open_.attribute(SECOND, OTHER, at).tenant == ""
    (uid,) = open_.grants
    open_.apply(Ended(uid=uid, at=NOW + HOUR, final=True))
    for known in (open_, AgentState.of(open_.snapshot("epoch", NOW + HOUR))):
        assert len(list(known.ended)) == 1
        assert known.attribute(SECOND, ADDRESS, at) == state().attribute("tenant_acme", ADDRESS, at)
        assert known.tenant_of(SECOND) is None


def test_sessions_of_either_login_are_covered_and_counted_alike() -> None:
    desired = Desired([grant("203.0.113.7/32")])
    (uid,) = [open_grant.uid for open_grant in desired]
    sessions = [Session(1, "tenant_acme", ADDRESS), Session(2, SECOND, ADDRESS)]
    assert desired.covers(SECOND, ADDRESS)
    assert not desired.covers(SECOND, OTHER)
    assert desired.uncovered(sessions) == []
    assert desired.count(sessions) == {uid: 2}
    desired.close(uid)
    assert desired.uncovered(sessions) == sessions


def test_the_login_of_a_rule_lets_in_nobody_else() -> None:
    desired = Desired([grant("203.0.113.7/32", role=SECOND)])
    assert desired.covers(SECOND, ADDRESS)
    assert not desired.covers("tenant_acme", ADDRESS)
