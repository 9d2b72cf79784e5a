"""A log file goes only when it is stored to its end and PostgreSQL has left it; what cannot be read is told."""

import os
from pathlib import Path

import pytest
from tests.harness.log_follower import FIRST, SECOND, Follower, append

from vaultbrix.audit.shipping import reader


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    return Follower(tmp_path)


def removable(follower: Follower, keep: float = 100.0, wall: float | None = None) -> list[str]:
    newest = max(path.stat().st_mtime for path in follower.directory.glob("*.json"))
    return follower.log.removable(keep, newest + 1000 if wall is None else wall)


def test_only_a_stored_file_that_the_writer_has_left_is_removed(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    append(follower.directory, SECOND, b"two\n")
    for _ in range(30):
        follower.poll()
    assert removable(follower) == [], "nobody saw PostgreSQL write a file yet"
    append(follower.directory, SECOND, b"more\n")
    follower.poll()
    assert removable(follower) == [FIRST]
    assert removable(follower, keep=5000) == [], "too young"
    append(follower.directory, FIRST, b"not stored\n")
    assert not follower.log.remove(FIRST), "written since"
    follower.poll()
    assert removable(follower) == []
    assert (follower.directory / FIRST).exists()


def test_what_is_laid_beside_the_active_file_is_no_reason_to_remove_that(follower: Follower) -> None:
    append(follower.directory, SECOND, b"active, and nobody works\n")
    follower.poll()
    append(follower.directory, FIRST, b"a copy from elsewhere\n")
    follower.poll()
    for _ in range(100):
        follower.poll()
    assert removable(follower, keep=0) in ([], [SECOND])
    follower.restart()
    for _ in range(100):
        follower.poll()
    assert removable(follower) == []


def test_after_a_clock_set_back_the_file_that_is_written_stays_whatever_its_name_and_time(follower: Follower) -> None:
    append(follower.directory, SECOND, b"two\n")
    os.utime(follower.directory / SECOND, (2_000_000_000, 2_000_000_000))
    follower.poll()
    for number in range(30):
        append(follower.directory, FIRST, b"%d\n" % number)
        os.utime(follower.directory / FIRST, (1_000_000_000 + number, 1_000_000_000 + number))
        follower.poll()
    # By the clock that was set back, the other file is from the future; it goes all the same after `keep`.
    assert removable(follower, wall=1_000_000_100) == [SECOND]


def test_a_file_that_was_removed_and_is_written_all_the_same_is_read(follower: Follower) -> None:
    with (follower.directory / FIRST).open("ab", buffering=0) as written:
        written.write(b"one\n")
        follower.poll()
        for number in range(30):
            append(follower.directory, SECOND, b"%d\n" % number)
            follower.poll()
        assert removable(follower) == [FIRST]
        assert follower.log.remove(FIRST)
        assert not (follower.directory / FIRST).exists()
        follower.poll()
        written.write(b"late\n")
        follower.poll()
    assert follower.texts()[-1] == b"late"
    append(follower.directory, SECOND, b"end\n")
    follower.poll(reader.WATCHED_SECONDS)
    follower.poll()
    assert list(follower.positions) == [SECOND]
    assert follower.gaps == []


def test_a_file_that_may_not_be_read_is_told_and_keeps_no_other_waiting(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(follower.directory, FIRST, b"one\n")
    append(follower.directory, SECOND, b"two\n")
    allowed = Path.open

    # Permissions do not stop root, who runs the tests.
    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == FIRST:
            raise PermissionError(13, "Permission denied", str(self))
        return allowed(self, *args, **kwargs)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        follower.poll()
        assert follower.texts() == [b"two"]
        assert "log_file_mode = 0640" in follower.log.problems[0].message
        assert not follower.log.drained
    follower.poll()
    assert follower.texts() == [b"two", b"one"]
    assert follower.log.problems == ()
    assert follower.log.drained


def test_a_directory_that_is_not_there_is_told_until_it_is(follower: Follower) -> None:
    (follower.directory / "log").mkdir()
    append(follower.directory / "log", FIRST, b"one\n")
    follower.directory /= "log"
    follower.restart()
    follower.directory.rename(follower.directory.parent / "away")
    follower.poll()
    assert "No such file" in follower.log.problems[0].message
    (follower.directory.parent / "away").rename(follower.directory)
    follower.poll()
    assert (follower.texts(), follower.log.problems) == ([b"one"], ())


@pytest.mark.parametrize("ending", ["log", "csv"])
def test_a_log_of_another_format_names_the_setting(follower: Follower, ending: str) -> None:
    append(follower.directory, FIRST, b"one\n")
    append(follower.directory, f"pg-20261201-1.{ending}", b"LOG:  one\n")
    follower.poll()
    assert follower.log.problems == (), "PostgreSQL always writes a little to its standard error"
    newer = (follower.directory / FIRST).stat().st_mtime + 100
    os.utime(follower.directory / f"pg-20261201-1.{ending}", (newer, newer))
    follower.poll()
    assert "log_destination must hold jsonlog" in follower.log.problems[0].message
