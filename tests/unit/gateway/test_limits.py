from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.gateway.limits import Limits


def test_a_burst_passes_and_then_the_rate() -> None:
    limits: Limits[str] = Limits(rate=2, burst=3)
    assert [limits.seconds_to_wait("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert limits.seconds_to_wait("b", 0.0) == 0
    assert limits.seconds_to_wait("a", 0.5) == 0
    assert limits.seconds_to_wait("a", 0.5) == 0.5
    assert [limits.seconds_to_wait("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_rate_of_nothing_limits_nothing() -> None:
    limits: Limits[str] = Limits(rate=0, burst=0)
    assert all(limits.seconds_to_wait("a", 0.0) == 0 for _ in range(100))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.integers(1, 20), st.integers(1, 20))
def test_no_more_pass_than_burst_and_rate_allow(pauses: list[float], rate: int, burst: int) -> None:
    limits: Limits[str] = Limits(rate, burst)
    now, passed = 0.0, 0
    for pause in pauses:
        now += pause
        wait = limits.seconds_to_wait("a", now)
        assert 0 <= wait <= 1 / rate
        passed += wait == 0
    assert passed <= burst + rate * now + 1e-6


def test_keys_that_are_at_rest_are_forgotten() -> None:
    limits: Limits[int] = Limits(rate=10, burst=10)
    for key in range(5000):
        limits.seconds_to_wait(key, float(key))
    assert len(limits._buckets) <= 1001
