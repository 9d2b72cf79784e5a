"""Whatever happens to log files: no line is delivered twice, and of each that is not, a gap tells."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.harness.log_follower import Follower


class Written:
    """One file as the writer knows it: the lines it holds, and whether it was harmed where that may show in a gap."""

    def __init__(self, name: str, handle: BinaryIO) -> None:
        self.handle = handle
        self.names = {name}
        self.lines: list[bytes] = []
        self.part = b""
        self.harmed = False

    @property
    def name(self) -> str:
        return Path(f"/proc/self/fd/{self.handle.fileno()}").readlink().name


class Logs(RuleBasedStateMachine):
    """PostgreSQL, an administrator with unsure hands, and a shipper that is killed now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.follower = Follower(self.directory)
        self.files: list[Written] = []
        self.count = 0

    def teardown(self) -> None:
        try:
            self.check()
        finally:
            for file in self.files:
                file.handle.close()
            shutil.rmtree(self.directory)

    @property
    def active(self) -> Written:
        return self.files[-1]

    def named(self, file: Written) -> bool:
        return (self.directory / file.name).exists()

    def new_name(self, older: bool = False) -> str:
        self.count += 1
        return f"pg-{500 - self.count if older else 500 + self.count:04}.json"

    def content(self) -> bytes:
        self.count += 1
        return b"line %d" % self.count + b"x" * (self.count % 7)

    @initialize()
    def start(self) -> None:
        self.rotate_to(older=False)

    @rule(older=st.booleans())
    def rotate(self, older: bool) -> None:
        """Older: the clock was set back."""
        self.rotate_to(older=older)

    def rotate_to(self, *, older: bool) -> None:
        name = self.new_name(older)
        self.files.append(Written(name, (self.directory / name).open("ab", buffering=0)))

    @rule(number=st.integers(1, 4))
    def write(self, number: int) -> None:
        for _ in range(number):
            line = self.active.part or self.content()
            rest = line if not self.active.part else b"."
            self.active.handle.write(rest + b"\n")
            self.active.lines.append(line + (b"." if self.active.part else b""))
            self.active.part = b""

    @precondition(lambda self: not self.active.part)
    @rule()
    def write_half_a_line(self) -> None:
        self.active.part = self.content()
        self.active.handle.write(self.active.part)

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.files))
        if self.named(file):
            name = self.new_name(data.draw(st.booleans()))
            (self.directory / file.name).rename(self.directory / name)
            file.names.add(name)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.files))
        if self.named(file):
            (self.directory / file.name).unlink()
            file.harmed = True

    @precondition(lambda self: not self.active.part)
    @rule()
    def truncate(self) -> None:
        known = self.follower.positions.get(self.active.name)
        if known is None or not known.offset:
            # Nobody has seen what is lost; its sessions' numbers tell.
            self.active.lines.clear()
        os.ftruncate(self.active.handle.fileno(), 0)
        self.active.harmed = True

    @rule(seconds=st.sampled_from([0.1, 2.0, 5.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.follower.now += seconds

    @rule()
    def ship_a_batch(self) -> None:
        if (batch := self.follower.log.read()) is not None:
            self.follower.take(batch)

    @rule()
    def ship_all(self) -> None:
        self.follower.poll()

    @rule(before=st.booleans())
    def die(self, before: bool) -> None:
        """In the middle of a batch, or between two."""
        if before:
            self.follower.log.read()
        self.follower.restart()

    def check(self) -> None:
        if not self.files:
            return
        for _ in range(3):
            self.rotate_to(older=False)
            self.active.lines.append(self.content())
            self.active.handle.write(self.active.lines[-1] + b"\n")
            self.follower.poll()
        delivered = self.follower.texts()
        assert len(delivered) == len(set(delivered)), "twice"
        told = {name for name, _ in self.follower.gaps}
        for file in self.files:
            missing = [line for line in file.lines if line not in delivered]
            # A file that was gone before anything of it was stored is known to nobody; its sessions' numbers tell.
            unknown = not file.names & {name for name, _, _ in self.follower.lines}
            assert not missing or (file.harmed and (file.names & told or unknown)), (file.names, missing)


Logs.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLogs = Logs.TestCase
