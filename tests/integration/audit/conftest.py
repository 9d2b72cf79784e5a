"""The audit store that tests of one file share."""

from collections.abc import Iterator

import pytest
from tests.harness.audit_store import Store
from tests.harness.database import directory, free_port


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A store, running and empty."""
    with directory() as path:
        store = Store(path / "store", port=free_port())
        try:
            store.start()
            yield store
        finally:
            store.stop()
