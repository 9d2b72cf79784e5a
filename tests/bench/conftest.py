"""What benches of one file measure in."""

from collections.abc import Iterator

import pytest
from tests.harness.world import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """API server, PostgreSQL, operator and agent, running."""
    world = World()
    try:
        world.start()
        yield world
    finally:
        world.stop()
