"""The signed header of a sealed batch of audit records. Pure."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime


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
        """The signed bytes."""
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

    def head(self) -> bytes:
        """What the next batch names as its previous one."""
        return hashlib.sha256(self.text()).digest()
