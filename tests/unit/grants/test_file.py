"""The agent's state on disk: a crash at any byte leaves what was remembered, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness.builders import NOW
from tests.harness.state_changes import ended, opened

from vaultbrix.grants.file import GrantsFile, GrantsReader, load
from vaultbrix.grants.state import AgentState, Closed, StateChange


def write(path: Path, *changes: StateChange) -> AgentState:
    """An agent that lives for these changes."""
    state, file = load(path, "main"), GrantsFile(path)
    for change in changes:
        file.append(state, [change], NOW)
        state.apply(change)
    return state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "grants.json"


def test_every_change_is_there_after_a_restart(path: Path) -> None:
    state = write(path, opened("a"), opened("b"), ended("a"), Closed(uid="c"))
    found = load(path, "main")
    assert found.grants == state.grants
    assert found.closed == {"a", "c"}
    assert [g.uid for g in found.ended] == ["a"]


def test_a_journal_cut_at_any_byte_holds_the_changes_that_were_whole(path: Path) -> None:
    write(path, opened("a"), opened("b"), ended("a"))
    journal = path.with_suffix(".journal")
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(lines[0]), len(whole) + 1):
        journal.write_bytes(whole[:length])
        found = load(path, "main")
        applied = sum(1 for n in range(1, len(lines)) if len(b"".join(lines[: n + 1])) <= length)
        assert found.grants.keys() == [set(), {"a"}, {"a", "b"}, {"b"}][applied]


def test_what_follows_a_torn_line_is_not_lost(path: Path) -> None:
    write(path, opened("a"))
    journal = path.with_suffix(".journal")
    journal.write_bytes(journal.read_bytes()[:-5])
    write(path, opened("b"))
    assert load(path, "main").grants.keys() == {"b"}


def test_a_journal_that_a_crash_left_behind_its_snapshot_is_not_applied_again(path: Path) -> None:
    state = write(path, opened("a"))
    old = path.with_suffix(".journal").read_bytes()
    state.apply(ended("a"))
    GrantsFile(path).save(state, NOW)
    path.with_suffix(".journal").write_bytes(old)
    assert load(path, "main").grants == {}
    path.with_suffix(".journal").unlink()
    assert load(path, "main").grants == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"server": "main", "grants": [{}]}', b"\xff\xfe"])
def test_a_state_that_cannot_be_read_is_closed(path: Path, content: bytes) -> None:
    write(path, opened("a"))
    path.write_bytes(content)
    assert load(path, "main").grants == {}


def test_the_state_of_another_server_is_not_this_ones(path: Path) -> None:
    write(path, opened("a"))
    assert load(path, "other").grants == {}


def test_a_reader_follows_over_new_snapshots(path: Path) -> None:
    reader = GrantsReader(path, "main")
    reader.refresh()
    state, file = AgentState("main"), GrantsFile(path)
    for number in range(10):
        change = opened(f"u{number}")
        file.append(state, [change], NOW)
        state.apply(change)
        if number % 3 == 2:
            file.save(state, NOW)
        reader.refresh()
        assert reader.state.grants == state.grants


def test_the_files_are_for_the_owner_to_write_and_the_group_to_read(path: Path) -> None:
    write(path, opened("a"))
    assert {p.stat().st_mode & 0o777 for p in (path, path.with_suffix(".journal"))} == {0o640}


# In a process of its own: the limit holds for all files, those that the runner of the tests writes included.
NO_ROOM = """
import resource, sys
from pathlib import Path
from tests.harness.builders import NOW
from tests.harness.state_changes import ended, opened
from vaultbrix.grants.file import GrantsFile
from vaultbrix.grants.state import AgentState
state, file = AgentState("main"), GrantsFile(Path(sys.argv[1]))
file.save(state, NOW)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
try:
    file.append(state, [opened("a"), opened("b"), opened("c")], NOW)
except OSError as error:
    print(error.strerror)
file.append(state, [ended("x")], NOW)
"""


def test_what_there_is_no_room_for_is_an_error_and_leaves_no_half_line(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, path],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.stdout == "File too large\n"
    assert path.with_suffix(".journal").read_bytes().count(b"\n") == 2
    found = load(path, "main")
    assert (found.grants, found.closed) == ({}, {"x"})
