"""A PostgreSQL of which the agent's connections are tested without anything else."""

from collections.abc import Iterator

import pytest
from tests.harness.postgres import Postgres
from tests.harness.slot import folder


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    made = Postgres(folder() / "postgres", settings={"listen_addresses": "", "max_locks_per_transaction": "10"})
    made.hba_file.write_text("local all all trust\n")
    made.start()
    with made.connect() as connection:
        connection.execute("CREATE ROLE vaultbrix_tenants; CREATE ROLE tenant_a IN ROLE vaultbrix_tenants LOGIN")
    yield made
    made.stop()
