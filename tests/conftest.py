"""Properties look at enough examples to mean something, few enough to take seconds, and never at the clock."""

from hypothesis import HealthCheck, settings

settings.register_profile("tests", max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
