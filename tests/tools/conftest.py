"""One database with the gate for all tools; each test has a tenant and a project of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.database import Database, running
from tests.harness.migration_project import Project, made
from tests.harness.migration_tool import Tool
from tests.harness.migration_tools import TOOLS
from tests.harness.world import World


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    """A PostgreSQL with the gate."""
    with running() as started:
        yield started


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """Everything of the product as processes, and clients with addresses of their own."""
    made = World()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(params=TOOLS, ids=lambda kind: kind.name)
def project(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Project[Tool]:
    """A tool and a tenant that it migrates."""
    return made(database, request.param, tmp_path)
