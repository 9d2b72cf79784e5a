"""The signed header of a sealed batch of audit records. Pure."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self


@dataclass(frozen=True)
class Header:
    """What is signed of a batch. ``start`` and ``stop`` are byte offsets in ``file``; an empty file: no lines."""

    server: str
    batch: int
    sealed_at: datetime
    file: str
    start: int
    stop: int
    parts: int
    previous: bytes
    root: bytes

    def text(self) -> bytes:
        """The header as the text that is signed."""
        at = self.sealed_at.astimezone(UTC).isoformat(timespec="microseconds")
        # A line end in a name would let one header read as another.
        if "\n" in self.server or "\n" in self.file:
            raise ValueError("names hold no line end")
        lines = (
            "vaultbrix audit batch 1",
            f"server {self.server}",
            f"batch {self.batch}",
            f"sealed {at}",
            f"bytes {self.start} {self.stop} {self.file}",
            f"parts {self.parts}",
            f"previous {self.previous.hex()}",
            f"root {self.root.hex()}",
        )
        return "".join(f"{line}\n" for line in lines).encode()

    @classmethod
    def read(cls, text: bytes) -> Self:
        """The header whose text this is. Raises ValueError for any other text."""
        try:
            _, *fields = text.decode().removesuffix("\n").split("\n")
            server, batch, sealed, place, parts, previous, root = (line.partition(" ")[2] for line in fields)
            start, stop, file = place.split(" ", 2)
            header = cls(
                server=server,
                batch=int(batch),
                sealed_at=datetime.fromisoformat(sealed),
                file=file,
                start=int(start),
                stop=int(stop),
                parts=int(parts),
                previous=bytes.fromhex(previous),
                root=bytes.fromhex(root),
            )
        except ValueError:
            raise ValueError("not a batch's header") from None
        if header.text() != text:
            raise ValueError("not a batch's header")
        return header

    def head(self) -> bytes:
        """Hash of the header; the next batch has it as its ``previous``."""
        return hashlib.sha256(self.text()).digest()
