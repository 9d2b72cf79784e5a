"""Files that are cut or written anew with what they held: nothing is lost in silence, nothing is stored twice."""

import os
from pathlib import Path

import pytest
from tests.unit.test_reader import FIRST, Follower, append


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    return Follower(tmp_path)


@pytest.mark.xfail(strict=True, reason="a file that is cut is read again from its beginning")
def test_lines_that_stay_when_a_file_is_cut_are_stored_once(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\ntwo\nthree\n")
    follower.poll()
    os.truncate(follower.directory / FIRST, len(b"one\n"))
    follower.poll()
    append(follower.directory, FIRST, b"four\n")
    follower.poll()
    assert follower.texts() == [b"one", b"two", b"three", b"four"]


@pytest.mark.xfail(strict=True, reason="a file that is written anew is read again from its beginning")
def test_lines_that_a_new_file_has_again_are_stored_once(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\ntwo\nthree\n")
    follower.poll()
    edited = follower.directory / "edited"
    edited.write_bytes(b"one\nTWO\nthree\n")
    edited.rename(follower.directory / FIRST)
    follower.poll()
    assert sorted(follower.texts()) == sorted([b"one", b"two", b"three", b"TWO"])


@pytest.mark.xfail(strict=True, reason="only what stands before the position is compared")
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
