from datetime import timedelta

import pytest
from tests.harness.builders import MINUTE, NOW, SECOND

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import ServerAgent
from vaultbrix.servers.decisions import Renewal, agent_connected, clock_in_sync, connected

LASTS = timedelta(seconds=40)


def agent(name: str = "pg-0", skew: int = 0) -> ServerAgent:
    return ServerAgent(name=name, namespace="system", clock_skew_seconds=skew, at=NOW)


def test_an_agent_is_connected_while_its_lease_runs() -> None:
    agents = [agent("new"), agent("old"), agent("none")]
    renewals = {"new": Renewal(NOW - 40 * SECOND, LASTS), "old": Renewal(NOW - 41 * SECOND, LASTS)}
    assert [a.name for a in connected(agents, renewals, NOW)] == ["new"]


def test_one_connected_agent_is_enough_and_is_named() -> None:
    assert agent_connected([agent("a"), agent("b")], [agent("b")]) == (True, Reason.CONNECTED, "b")


@pytest.mark.parametrize(("agents", "says"), [([], "vaultbrix agent"), ([agent("pg-0")], "pg-0")])
def test_no_connected_agent_says_what_to_do(agents: list[ServerAgent], says: str) -> None:
    status, reason, message = agent_connected(agents, [])
    assert (status, reason) == (False, Reason.NO_AGENT)
    assert says in message


@pytest.mark.parametrize("skew", [-5, 0, 5])
def test_clocks_within_five_seconds_are_in_sync(skew: int) -> None:
    assert clock_in_sync([agent(skew=skew)])[:2] == (True, Reason.IN_SYNC)


@pytest.mark.parametrize(("skew", "says"), [(6, "pg-1's is 6 s ahead"), (-90, "pg-1's is 90 s behind")])
def test_a_clock_that_is_off_is_told_with_agent_seconds_and_remedy(skew: int, says: str) -> None:
    status, reason, message = clock_in_sync([agent(), agent("pg-1", skew)])
    assert (status, reason) == (False, Reason.CLOCK_SKEW)
    assert says in message
    assert "NTP" in message


def test_nobodys_clock_is_unknown() -> None:
    assert clock_in_sync([])[:2] == (None, Reason.NO_AGENT)


def test_a_renewal_counts_for_as_long_as_it_says() -> None:
    assert connected([agent()], {"pg-0": Renewal(NOW - MINUTE, 2 * MINUTE)}, NOW)
