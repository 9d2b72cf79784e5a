from datetime import timedelta

import pytest
from tests.harness.builders import NOW

from vaultbrix.runtime.clock import clock_skew_seconds, never_behind


@pytest.mark.parametrize(("seconds", "told"), [(0, 0), (5, 0), (-5, 0), (5.4, 0), (6, 6), (-6, -6), (-3600, -3600)])
def test_a_difference_counts_when_the_network_cannot_explain_it(seconds: float, told: int) -> None:
    assert clock_skew_seconds(timedelta(seconds=seconds)) == told


@pytest.mark.parametrize(("seconds", "behind"), [(0, 0), (-5, 0), (3600, 0), (-6, 6), (-3600, 3600)])
def test_rules_end_by_the_later_of_two_clocks_that_differ(seconds: int, behind: int) -> None:
    assert never_behind(NOW, timedelta(seconds=seconds)) == NOW + timedelta(seconds=behind)
