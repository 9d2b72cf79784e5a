"""One world for all tests: every part is real and runs as a process of its own."""

from collections.abc import Iterator

import pytest
from tests.harness.world import World


@pytest.fixture(scope="session")
def running() -> Iterator[World]:
    """The world, from the first test to the last."""
    world = World()
    try:
        world.start()
        yield world
    finally:
        world.stop()


@pytest.fixture
def world(running: World) -> World:
    """The world with everything up, whatever the test before has ended."""
    running.heal()
    return running
