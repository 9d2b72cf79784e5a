"""Files that are cut behind what is stored: what they lost is told."""

import os
from pathlib import Path

import pytest
from tests.harness.log_follower import FIRST, Follower, append


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    return Follower(tmp_path)


def test_a_file_that_is_cut_behind_what_is_stored_is_a_gap(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    follower.poll()
    append(follower.directory, FIRST, b"two\nthree\n")
    batch = follower.log.read()
    assert batch is not None and len(batch.lines) == 2
    # Seen, and not stored: the store was away.
    os.truncate(follower.directory / FIRST, len(b"one\ntwo\n"))
    follower.log.resume(follower.positions)
    follower.poll()
    assert follower.texts() == [b"one", b"two"]
    assert follower.gaps == [(FIRST, len(b"one\ntwo\n"))]
