from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.log_follower import FIRST, SECOND, THIRD, Follower, append

from vaultbrix.audit.shipping import followed, logfile, reader


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    return Follower(tmp_path)


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


def test_a_file_deleted_while_nobody_read_is_a_gap(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    follower.poll()
    follower.restart()
    (follower.directory / FIRST).unlink()
    append(follower.directory, THIRD, b"three\n")
    follower.poll()
    assert follower.gaps == [(FIRST, 4)]
    assert follower.texts() == [b"one", b"three"]


def test_a_file_deleted_while_it_is_followed_is_read_to_its_end_and_beyond(follower: Follower) -> None:
    with (follower.directory / FIRST).open("ab", buffering=0) as written:
        written.write(b"one\n")
        follower.poll()
        written.write(b"two\n")
        (follower.directory / FIRST).unlink()
        follower.poll()
        written.write(b"three\n")
        append(follower.directory, SECOND, b"next\n")
        follower.poll()
    assert sorted(follower.texts()) == [b"next", b"one", b"three", b"two"]
    append(follower.directory, SECOND, b"more\n")
    follower.poll(reader.WATCHED_SECONDS)
    follower.poll()
    assert follower.gaps == []
    assert list(follower.positions) == [SECOND]


def test_a_file_that_the_writer_had_left_may_be_deleted_at_any_time(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    follower.poll()
    append(follower.directory, SECOND, b"two\n")
    follower.poll()
    assert follower.positions[FIRST].complete
    assert not follower.positions[SECOND].complete
    follower.restart()
    (follower.directory / FIRST).unlink()
    follower.poll()
    assert follower.gaps == []
    assert list(follower.positions) == [SECOND]


def test_an_empty_directory_loses_nothing_by_itself(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    follower.poll()
    follower.restart()
    (follower.directory / FIRST).rename(follower.directory / "elsewhere")
    follower.poll()
    assert follower.gaps == []
    assert "log_destination must hold jsonlog" in follower.log.problems[0].message
    (follower.directory / "elsewhere").rename(follower.directory / FIRST)
    append(follower.directory, FIRST, b"two\n")
    follower.poll()
    assert (follower.texts(), follower.gaps, follower.log.problems) == ([b"one", b"two"], [], ())


@pytest.mark.parametrize("restarted", [False, True])
def test_a_renamed_file_is_read_on_under_its_new_name(follower: Follower, restarted: bool) -> None:
    append(follower.directory, FIRST, b"one\n")
    follower.poll()
    if restarted:
        follower.restart()
    (follower.directory / FIRST).rename(follower.directory / THIRD)
    append(follower.directory, THIRD, b"two\n")
    append(follower.directory, SECOND, b"other\n")
    follower.poll()
    assert sorted(follower.lines) == [(FIRST, 0, b"one"), (SECOND, 0, b"other"), (THIRD, 4, b"two")]
    assert follower.gaps == []
    assert sorted(follower.positions) == [SECOND, THIRD]


def test_an_inode_used_again_is_another_file(follower: Follower) -> None:
    append(follower.directory, FIRST, b"one\n")
    follower.poll()
    follower.restart()
    inode = (follower.directory / FIRST).stat().st_ino
    # The same inode under another name, with other content: what a file system does after a deletion.
    (follower.directory / FIRST).rename(follower.directory / SECOND)
    (follower.directory / SECOND).write_bytes(b"new\nmore\n")
    assert (follower.directory / SECOND).stat().st_ino == inode
    follower.poll()
    assert follower.gaps == [(FIRST, 4)]
    assert follower.texts() == [b"one", b"new", b"more"]


def test_a_file_of_two_names_is_read_once(follower: Follower) -> None:
    append(follower.directory, SECOND, b"one\n")
    follower.poll()
    (follower.directory / FIRST).hardlink_to(follower.directory / SECOND)
    (follower.directory / THIRD).symlink_to(SECOND)
    append(follower.directory, SECOND, b"two\n")
    follower.poll()
    assert follower.texts() == [b"one", b"two"]
    (follower.directory / SECOND).unlink()
    append(follower.directory, FIRST, b"three\n")
    follower.poll()
    assert follower.texts() == [b"one", b"two", b"three"]
    assert follower.gaps == []


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
    monkeypatch.setattr(logfile, "CHUNK_BYTES", 8)
    append(follower.directory, FIRST, b"short\n" + b"x" * 100 + b"\nshort again\n" + b"y" * 50)
    follower.poll()
    assert follower.texts() == [b"short", b"x" * 100, b"short again"]
    append(follower.directory, FIRST, b"\n")
    follower.poll()
    assert follower.texts()[3:] == [b"y" * 50]


def test_a_batch_that_leaves_much_behind_asks_for_the_next_at_once(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "CHUNK_BYTES", 16)
    append(follower.directory, FIRST, b"01234567890123\n" * 4 + b"x\n")
    fullness = []
    while (batch := follower.log.read()) is not None:
        follower.take(batch)
        fullness.append(batch.full)
    assert fullness == [True, True, True, True, False]


def test_thousands_of_small_files_are_read_without_a_pause(follower: Follower) -> None:
    for number in range(2000):
        append(follower.directory, f"pg-{number:04}.json", b"%d\n" % number)
    pauses = 0
    while (batch := follower.log.read()) is not None:
        follower.take(batch)
        pauses += not batch.full
    assert pauses == 1
    assert follower.texts() == [b"%d" % number for number in range(2000)]


def test_a_file_written_all_the_time_keeps_no_other_from_being_read(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "CHUNK_BYTES", 8)
    append(follower.directory, FIRST, b"before\n" * 3)
    append(follower.directory, SECOND, b"waits\n")
    for _ in range(10):
        batch = follower.log.read()
        assert batch is not None
        follower.take(batch)
        append(follower.directory, FIRST, b"before\n")
    assert b"waits" in follower.texts()


@pytest.mark.parametrize("end", [b"\n", b""], ids=["whole", "torn"])
def test_of_a_line_that_is_far_too_long_beginning_and_end_are_kept_and_the_rest_is_a_gap(
    follower: Follower, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    for module in (logfile, followed):
        monkeypatch.setattr(module, "LONGEST_LINE", 32)
        monkeypatch.setattr(module, "HEAD_BYTES", 4)
    monkeypatch.setattr(logfile, "TAIL_BYTES", 3)
    monkeypatch.setattr(logfile, "CHUNK_BYTES", 8)
    append(follower.directory, FIRST, b"one\n" + b"long" * 10 + end)
    follower.poll()
    append(follower.directory, SECOND, b"two\n")
    follower.poll()
    assert follower.texts() == [b"one", b"two"]
    # The writer of one that is torn may go on, so that its end is not known.
    assert follower.torn == [(FIRST, 4, b"long"), *([(FIRST, 41, b"ong")] if end else [])]
    assert follower.gaps == [(FIRST, 4)]


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
        patch.setattr(logfile, "CHUNK_BYTES", chunk)
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
        append(follower.directory, "pg-9.json", b"last\n")
        follower.poll()
    ends = [("pg-9.json", position, b"last") for position in (0, 5)]
    assert sorted(follower.lines) == sorted([*expected, *ends])
    assert sorted(follower.torn) == torn
    assert follower.gaps == []
