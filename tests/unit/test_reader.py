import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.audit import reader
from vaultbrix.audit.reader import Batch, LogDirectory, Position

FIRST, SECOND, THIRD = "pg-20261201-1.json", "pg-20261201-2.json", "pg-20261201-3.json"


class Follower:
    """Reads batch after batch as the shipper does, and starts anew when asked to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.positions: dict[str, Position] = {}
        self.lines: list[tuple[str, int, bytes]] = []
        self.torn: list[tuple[str, int, bytes]] = []
        self.gaps: list[tuple[str, int]] = []
        self.restart()

    def restart(self) -> None:
        """A process that knows only what is stored."""
        self.log = LogDirectory(self.directory, self.positions)

    def poll(self) -> None:
        """All there is now."""
        while (batch := self.log.read()) is not None:
            self.take(batch)

    def take(self, batch: Batch) -> None:
        assert batch.position != self.positions.get(batch.file)
        self.log.stored(batch)
        self.positions = dict(self.log.positions)
        self.lines += [(batch.file, position, line) for position, line in batch.lines]
        self.torn += [(batch.file, position, line) for position, line in batch.torn]
        self.gaps += [(gap.file, gap.position) for gap in batch.gaps]

    def texts(self) -> list[bytes]:
        return [line for _, _, line in self.lines]


@pytest.fixture(autouse=True)
def _left_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "QUIET_SECONDS", 0.0)


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    return Follower(tmp_path)


def append(directory: Path, name: str, content: bytes) -> None:
    with (directory / name).open("ab") as file:
        file.write(content)
    # Every write is later than the one before, however coarse the file system's times are.
    _times[0] += 1
    os.utime(directory / name, (_times[0], _times[0]))


_times = [1_700_000_000]


def test_an_empty_directory_holds_nothing(follower: Follower) -> None:
    assert follower.log.read() is None


def test_whole_lines_are_read_with_their_offsets(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n\ntwo\xff\nthr")
    follower.poll()
    assert follower.lines == [(FIRST, 0, b"one"), (FIRST, 4, b""), (FIRST, 5, b"two\xff")]
    append(follower.directory, FIRST, b"ee\n")
    follower.poll()
    assert follower.lines[3:] == [(FIRST, 10, b"three")]


def test_other_files_are_left_alone(follower: Follower) -> None:
    append(follower.directory, "pg-20261201-1.log", b"no json\n")
    assert follower.log.read() is None


def test_files_follow_one_another_by_name(follower: Follower) -> None:
    for name in (THIRD, FIRST, SECOND):
        append(follower.directory, name, name.encode() + b"\n")
    follower.poll()
    assert follower.texts() == [FIRST.encode(), SECOND.encode(), THIRD.encode()]
    assert (follower.torn, follower.gaps) == ([], [])


def test_an_empty_file_between_two_others_is_passed_by(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    append(follower.directory, SECOND, b"")
    append(follower.directory, THIRD, b"three\n")
    follower.poll()
    assert follower.texts() == [b"one", b"three"]
    assert (follower.torn, follower.gaps) == ([], [])


def test_a_line_that_was_never_finished_is_kept_apart_once_a_newer_file_is_there(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\nto")
    follower.poll()
    assert follower.torn == []
    append(follower.directory, SECOND, b"two\n")
    follower.poll()
    assert follower.torn == [(FIRST, 4, b"to")]
    assert follower.texts() == [b"one", b"two"]


def test_reading_again_from_what_is_stored_gives_the_same_batch(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\ntwo\n")
    follower.poll()
    append(follower.directory, FIRST, b"three\n")
    before = follower.log.read()
    assert before is not None
    follower.restart()
    assert follower.log.read() == before


@pytest.mark.parametrize(
    "content", [b"ONE\nTWO\n", b"O\n", b"", b"ONE\nTWO\nTHREE\n"], ids=["same size", "shorter", "empty", "longer"]
)
def test_a_file_that_was_overwritten_in_place_is_a_gap_and_is_read_anew(follower: Follower, content: bytes) -> None:
    append(follower.directory, FIRST, b"one\ntwo\n")
    follower.poll()
    inode = (follower.directory / FIRST).stat().st_ino
    (follower.directory / FIRST).write_bytes(content)
    assert (follower.directory / FIRST).stat().st_ino == inode
    follower.poll()
    assert follower.gaps == [(FIRST, 8)]
    assert follower.texts() == [b"one", b"two", *content.split(b"\n")[:-1]]


def test_a_file_with_the_same_bytes_but_another_inode_is_a_gap(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    follower.poll()
    append(follower.directory, "copy", b"one\nnew\n")
    (follower.directory / "copy").replace(follower.directory / FIRST)
    follower.poll()
    assert follower.gaps == [(FIRST, 4)]
    assert follower.texts() == [b"one", b"one", b"new"]


def test_a_file_overwritten_far_behind_the_position_shows_in_the_bytes_before_it(follower: Follower) -> None:
    append(follower.directory, FIRST, b"a" * 1000 + b"\n")
    follower.poll()
    (follower.directory / FIRST).write_bytes(b"a" * 800 + b"b" * 200 + b"\nnew\n")
    follower.poll()
    assert follower.gaps == [(FIRST, 1001)]
    assert follower.texts()[-1] == b"new"


def test_a_deleted_file_is_a_gap(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    follower.poll()
    (follower.directory / FIRST).unlink()
    append(follower.directory, THIRD, b"three\n")
    follower.poll()
    assert follower.gaps == [(FIRST, 4)]
    assert follower.texts() == [b"one", b"three"]


def test_a_file_that_the_writer_had_left_may_be_deleted(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    append(follower.directory, SECOND, b"two\n")
    follower.poll()
    (follower.directory / FIRST).unlink()
    follower.poll()
    assert follower.gaps == []
    assert list(follower.positions) == [SECOND]


def test_a_file_whose_name_is_older_is_read_too(follower: Follower) -> None:
    append(follower.directory, SECOND, b"two\n")
    follower.poll()
    append(follower.directory, FIRST, b"written after the clock was set back\n")
    follower.poll()
    assert follower.texts() == [b"two", b"written after the clock was set back"]


def test_a_file_deleted_and_created_again_is_read_from_its_beginning(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\ntwo\n")
    follower.poll()
    (follower.directory / FIRST).unlink()
    append(follower.directory, FIRST, b"new\n" * 5)
    follower.poll()
    assert follower.gaps == [(FIRST, 8)]
    assert follower.texts() == [b"one", b"two", *[b"new"] * 5]


def test_a_line_longer_than_a_chunk_is_read_whole(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK_BYTES", 8)
    append(follower.directory, FIRST, b"short\n" + b"x" * 100 + b"\nshort again\n" + b"y" * 50)
    follower.poll()
    assert follower.texts() == [b"short", b"x" * 100, b"short again"]
    append(follower.directory, FIRST, b"\n")
    follower.poll()
    assert follower.texts()[3:] == [b"y" * 50]


def test_a_batch_that_leaves_much_behind_asks_for_the_next_at_once(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CHUNK_BYTES", 16)
    append(follower.directory, FIRST, b"01234567890123\n" * 4 + b"x\n")
    fullness = []
    while (batch := follower.log.read()) is not None:
        follower.take(batch)
        fullness.append(batch.full)
    assert fullness == [True, True, True, True, False]


LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"\r")), max_size=8)


@given(
    files=st.lists(
        st.tuples(LINES, st.binary(max_size=6).map(lambda tail: tail.replace(b"\n", b"")), st.data()), max_size=4
    ),
    chunk=st.integers(1, 20),
)
def test_however_the_bytes_arrive_every_whole_line_is_delivered_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[bytes], bytes, st.DataObject]],
    chunk: int,
) -> None:
    follower = Follower(tmp_path_factory.mktemp("log"))
    expected, torn = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "CHUNK_BYTES", chunk)
        for index, (lines, tail, data) in enumerate(files):
            name = f"pg-{index}.json"
            content = b"".join(line + b"\n" for line in lines) + tail
            cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
            append(follower.directory, name, b"")
            for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True):
                append(follower.directory, name, content[start:stop])
                if data.draw(st.booleans()):
                    follower.poll()
            position = 0
            for line in lines:
                expected.append((name, position, line))
                position += len(line) + 1
            if tail:
                torn.append((name, position, tail))
        append(follower.directory, "pg-9.json", b"last\n")
        follower.poll()
    assert sorted(follower.lines) == sorted([*expected, ("pg-9.json", 0, b"last")])
    assert sorted(follower.torn) == torn
    assert follower.gaps == []
